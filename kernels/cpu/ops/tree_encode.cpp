// Codes of hash trees from rows or a map. Reference: tree_encode_reference in
// halut/ops/tree/reference.py.
//
// Per tile of rows and codebook, the tested columns are gathered and whole vectors of rows walk the
// tree: the thresholds of a level are picked by the bits before it, with 2^level - 1 selections.
// Trees deeper than four levels go on row by row.
#include "../columns.h"
#include "../lanes.h"

HALUT_BEGIN

namespace {

constexpr int64_t tile_rows = 256;

// Of values[0 .. 2^level), the one whose index is written in the masks `right`, first bit first.
template <int level>
inline floats picked(const float* values, const ints* right) {
  if constexpr (level == 0) {
    return splat(values[0]);
  } else {
    const floats low = picked<level - 1>(values, right + 1);
    const floats high = picked<level - 1>(values + (1 << (level - 1)), right + 1);
    return right[0] ? high : low;
  }
}

template <int depth, int level = 0>
inline void walk(const float (*x)[tile_rows], const float* t, int64_t i, ints* right) {
  if constexpr (level < depth) {
    // NaN compares false: left.
    right[level] = load(x[level] + i) > picked<level>(t + (1 << level) - 1, right);
    walk<depth, level + 1>(x, t, i, right);
  }
}

template <int depth>
void encode(const float (*x)[tile_rows], const float* t, int64_t n, int32_t* codes) {
  constexpr int whole = depth < 4 ? depth : 4;
  for (int64_t i = 0; i < n; i += lanes) {
    ints right[whole], code = {};
    walk<whole>(x, t, i, right);
    for (int level = 0; level < whole; level++) code = code + code - right[level];
    __builtin_memcpy(codes + i, &code, sizeof code);
  }
  for (int level = whole; level < depth; level++)
    for (int64_t i = 0; i < n; i++)
      codes[i] = 2 * codes[i] + (x[level][i] > t[(1 << level) - 1 + codes[i]]);
}

void encode_any(int depth, const float (*x)[tile_rows], const float* t, int64_t n,
                int32_t* codes) {
  switch (depth) {
    case 1:
      return encode<1>(x, t, n, codes);
    case 2:
      return encode<2>(x, t, n, codes);
    case 3:
      return encode<3>(x, t, n, codes);
    case 4:
      return encode<4>(x, t, n, codes);
    case 5:
      return encode<5>(x, t, n, codes);
    case 6:
      return encode<6>(x, t, n, codes);
    case 7:
      return encode<7>(x, t, n, codes);
    default:
      return encode<8>(x, t, n, codes);
  }
}

}  // namespace

// codes[n * GC + c]; split_dims [GC * depth]; thresholds [GC, 2^depth - 1]; false if a tap is no column.
bool tree_encode(const View& view, const int64_t* split_dims, const float* thresholds, uint8_t* codes,
                 int64_t GC, int depth, int threads) {
  const View x = with_long_lines(view);
  Column* columns = columns_of(x, split_dims, GC * depth);
  if (!columns) return false;
  const int64_t N = x.rows(), tiles = (N + tile_rows - 1) / tile_rows;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t tile = 0; tile < tiles; tile++) {
    float tested[8][tile_rows];
    int32_t found[tile_rows];
    const int64_t n0 = tile * tile_rows, n = smaller(tile_rows, N - n0);
    const Rows rows(x, n0, n);
    for (int level = 0; level < depth; level++)  // what lies beyond the last row is walked too
      for (int64_t i = n; i < tile_rows; i++) tested[level][i] = 0;
    for (int64_t c = 0; c < GC; c++) {
      for (int level = 0; level < depth; level++)
        gather_column(x, columns[c * depth + level], rows, tested[level]);
      encode_any(depth, tested, thresholds + c * ((1 << depth) - 1), n, found);
      uint8_t* out = codes + n0 * GC + c;
      for (int64_t i = 0; i < n; i++) out[i * GC] = static_cast<uint8_t>(found[i]);
    }
  }
  free(columns);
  return true;
}

HALUT_END
