// Codes of hash trees, from rows or straight from an activation map.
// Reference: tree_encode_reference in tests/oracles/tree.py.
//
// A block takes 128 rows and as many codebooks as have their thresholds in 8 KiB of shared memory.
// Lanes run along rows where neighboring rows are neighbors in memory (NCHW maps), so that reads
// coalesce and the walk reads one tree's thresholds; along codebooks otherwise (NHWC, matrices).
// Which inputs a tree tests does not depend on its code: a thread reads those of some levels and
// rows before it compares any.
//
// Most maps are near: elements have 32-bit numbers and windows at most 32 positions. Then a row is
// its first element and the bits of the positions inside the map, a tap an offset and one bit.
#include "device.cuh"

namespace {

constexpr int threads = 256;
constexpr int block_rows = 128;
constexpr int max_thresholds = 2048;
constexpr int max_taps = 192;
constexpr int pitch = 36;  // of the tile of codes: nine words, odd against bank conflicts

struct NearRow {
  u32 base, inside;
};
struct NearTap {
  u32 offset, bit;
};

struct FarMap {
  typedef Row Window;
  typedef Tap Input;
  template <class X>
  static DEVICE float value(const View& v, const typename X::Raw* x, const Row& row,
                            const Tap& tap) {
    return inside(v, row, tap) ? X::value(x[row.base + tap.offset]) : 0.f;
  }
};

struct NearMap {
  typedef NearRow Window;
  typedef NearTap Input;
  static DEVICE bool fits(const View& v) {
    const i64 last = (v.B - 1) * v.stride_b + (v.C - 1) * v.stride_c + (v.H - 1) * v.stride_h +
                     (v.W - 1) * v.stride_w;
    return v.kh * v.kw <= 32 && last < 1ll << 31;
  }
  static DEVICE NearRow row(const View& v, const Row& far) {
    const int kw = static_cast<int>(v.kw);
    u32 across = 0, all = 0;
    for (int j = 0; j < kw; j++) {
      const int x = far.x + j * static_cast<int>(v.dw);
      across |= static_cast<u32>(static_cast<u32>(x) < static_cast<u32>(v.W)) << j;
    }
    for (int i = 0; i < static_cast<int>(v.kh); i++) {
      const int y = far.y + i * static_cast<int>(v.dh);
      if (static_cast<u32>(y) < static_cast<u32>(v.H)) all |= across << (i * kw);
    }
    return {static_cast<u32>(far.base), all};
  }
  static DEVICE NearTap tap(const View& v, i64 column, const Tap& far) {
    const i64 area = v.kh * v.kw;
    return {static_cast<u32>(far.offset), 1u << (column - divided(column, area) * area)};
  }
  template <class X>
  static DEVICE float value(const View&, const typename X::Raw* x, const NearRow& row,
                            const NearTap& tap) {
    return row.inside & tap.bit ? X::value(x[row.base + tap.offset]) : 0.f;
  }
};

// Walks ROWS rows down one tree at once and reads some levels' inputs before it compares. DEPTH 0:
// `depth` levels, one by one.
template <class X, class Map, int DEPTH, int ROWS>
DEVICE void walk(const View& v, const typename Map::Window* row, const typename Map::Input* tap,
                 const float* t, int depth, u32* code) {
  constexpr int levels = DEPTH <= 4 ? 4 : 2;
  const typename X::Raw* x = static_cast<const typename X::Raw*>(v.data);
#pragma unroll
  for (int i = 0; i < ROWS; i++) code[i] = 0;
  if (DEPTH == 0) {
    for (int level = 0; level < depth; level++) {
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const float value = Map::template value<X>(v, x, row[i], tap[level]);
        code[i] = 2 * code[i] + (value > t[(1 << level) - 1 + code[i]]);
      }
    }
  }
#pragma unroll
  for (int first = 0; first < DEPTH; first += levels) {
    float value[levels][ROWS];
#pragma unroll
    for (int l = 0; l < levels; l++) {
#pragma unroll
      for (int i = 0; i < ROWS && first + l < DEPTH; i++) {
        value[l][i] = Map::template value<X>(v, x, row[i], tap[first + l]);
      }
    }
#pragma unroll
    for (int l = 0; l < levels; l++) {
#pragma unroll
      for (int i = 0; i < ROWS && first + l < DEPTH; i++) {
        code[i] = 2 * code[i] + (value[l][i] > t[(1 << (first + l)) - 1 + code[i]]);
      }
    }
  }
}

// What a block has in shared memory, and where its codes go.
struct Block {
  const float* t;
  const void *taps, *window;
  u8 *tile, *codes;
  i64 GC;
  int rows, count, books, depth;
};

// Lanes along rows.
template <class X, class Map, int DEPTH>
DEVICE void by_row(const View& v, const Block& b) {
  const int lane = threadIdx.x % 32, depth = DEPTH ? DEPTH : b.depth, nodes = (1 << depth) - 1;
  const typename Map::Window* window = static_cast<const typename Map::Window*>(b.window);
  typename Map::Window row[4];
#pragma unroll
  for (int i = 0; i < 4; i++) row[i] = window[lane + 32 * i < b.rows ? lane + 32 * i : 0];
#pragma unroll 1
  for (int c = threadIdx.x / 32; c < b.count; c += threads / 32) {
    const typename Map::Input* tap = static_cast<const typename Map::Input*>(b.taps) + c * depth;
    u32 code[4];
    walk<X, Map, DEPTH, 4>(v, row, tap, b.t + c * nodes, depth, code);
#pragma unroll
    for (int i = 0; i < 4; i++) b.tile[(lane + 32 * i) * pitch + c] = static_cast<u8>(code[i]);
  }
}

// Lanes along codebooks: a thread keeps its tree's taps.
template <class X, class Map, int DEPTH>
DEVICE void by_book(const View& v, const Block& b) {
  constexpr int at_once = DEPTH <= 4 ? 4 : 2;
  const int depth = DEPTH ? DEPTH : b.depth, nodes = (1 << depth) - 1;
  int span = b.books;  // lanes that a row takes, a power of two
  while (span / 2 >= b.count) span /= 2;
  const int c = threadIdx.x & (span - 1), step = threads / span;
  if (c >= b.count) return;
  const typename Map::Window* window = static_cast<const typename Map::Window*>(b.window);
  const typename Map::Input* taps = static_cast<const typename Map::Input*>(b.taps) + c * depth;
  typename Map::Input tap[DEPTH ? DEPTH : 1];
#pragma unroll
  for (int l = 0; l < DEPTH; l++) tap[l] = taps[l];
#pragma unroll 1
  for (int first = threadIdx.x / span; first < b.rows; first += at_once * step) {
    typename Map::Window row[at_once];
    u32 code[at_once];
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      row[i] = window[first + i * step < b.rows ? first + i * step : first];
    }
    walk<X, Map, DEPTH, at_once>(v, row, DEPTH ? tap : taps, b.t + c * nodes, depth, code);
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      const int r = first + i * step;
      if (r < b.rows) b.codes[r * b.GC + c] = static_cast<u8>(code[i]);
    }
  }
}

// The walk of the block's depth, DEPTH or more.
template <class X, bool BY_ROW, int DEPTH>
DEVICE void near(const View& v, const Block& b) {
  if (b.depth != DEPTH) {
    if constexpr (DEPTH < 8) near<X, BY_ROW, DEPTH + 1>(v, b);
  } else if (BY_ROW) {
    by_row<X, NearMap, DEPTH>(v, b);
  } else {
    by_book<X, NearMap, DEPTH>(v, b);
  }
}

// columns [GC * depth]: which column of the row level l of codebook c tests; null: c * depth + l.
template <class X, bool BY_ROW>
DEVICE void tree_encode(const View& v, const i64* columns, const float* thresholds, u8* codes,
                        i64 N, i64 GC, int depth) {
  SHARED(float, t, max_thresholds);
  SHARED(Tap, far_taps, max_taps);
  SHARED(Row, far_window, block_rows);
  SHARED(u8, tile, BY_ROW ? block_rows * pitch : 16);
  NearMap::Input* near_taps = reinterpret_cast<NearMap::Input*>(far_taps);
  NearMap::Window* near_window = reinterpret_cast<NearMap::Window*>(far_window);
  const int nodes = (1 << depth) - 1;
  const int books = depth <= 6 ? 32 : max_thresholds >> depth;
  const i64 book_tiles = (GC + books - 1) / books;
  const i64 row_tile = divided(blockIdx.x, book_tiles);
  const i64 n0 = row_tile * block_rows;
  const i64 c0 = (blockIdx.x - row_tile * book_tiles) * books;
  const int rows = static_cast<int>(N - n0 < block_rows ? N - n0 : block_rows);
  const int count = static_cast<int>(GC - c0 < books ? GC - c0 : books);
  const int tid = threadIdx.x;
  const bool is_near = NearMap::fits(v);

  for (int i = tid; i < count * nodes; i += threads) t[i] = thresholds[c0 * nodes + i];
  if (tid < count * depth) {  // at most max_taps
    const i64 at = c0 * depth + tid, column = columns ? columns[at] : at;
    const Tap tap = tap_of(v, column);
    if (is_near) {
      near_taps[tid] = NearMap::tap(v, column, tap);
    } else {
      far_taps[tid] = tap;
    }
  }
  if (tid < rows) {
    const Row row = row_of(v, n0 + tid);
    if (is_near) {
      near_window[tid] = NearMap::row(v, row);
    } else {
      far_window[tid] = row;
    }
  }
  __syncthreads();

  const Block b = {t, far_taps, far_window, tile, codes + n0 * GC + c0,
                   GC, rows, count, books, depth};
  if (!is_near) {
    if (BY_ROW) by_row<X, FarMap, 0>(v, b);
    if (!BY_ROW) by_book<X, FarMap, 0>(v, b);
  } else {
    near<X, BY_ROW, 1>(v, b);
  }
  if (!BY_ROW) return;
  __syncthreads();
  const bool words = (reinterpret_cast<u64>(b.codes) | static_cast<u64>(GC)) % 4 == 0;
  const int unit = words ? 4 : 1, units = books / unit, step = threads / units;
  const int c = tid % units * unit;
  if (c >= count) return;
  for (int r = tid / units; r < rows; r += step) {
    u8* to = b.codes + r * GC + c;
    const u8* from = tile + r * pitch + c;
    if (words) {
      *reinterpret_cast<u32*>(to) = *reinterpret_cast<const u32*>(from);
    } else {
      *to = *from;
    }
  }
}

}  // namespace

#define ENTRY(name, X, BY_ROW, BLOCKS)                                                        \
  extern "C" __global__ void __launch_bounds__(threads, BLOCKS)                               \
      name(const View v, const i64* columns, const float* thresholds, u8* codes, i64 N, i64 GC, \
           int depth) {                                                                       \
    tree_encode<X, BY_ROW>(v, columns, thresholds, codes, N, GC, depth);                      \
  }

ENTRY(tree_encode_f32_rows, Float, true, 4)
ENTRY(tree_encode_f16_rows, Half, true, 4)
ENTRY(tree_encode_bf16_rows, Bfloat, true, 4)
ENTRY(tree_encode_i8_rows, Int8, true, 3)
ENTRY(tree_encode_f32_books, Float, false, 4)
ENTRY(tree_encode_f16_books, Half, false, 4)
ENTRY(tree_encode_bf16_books, Bfloat, false, 4)
ENTRY(tree_encode_i8_books, Int8, false, 4)
