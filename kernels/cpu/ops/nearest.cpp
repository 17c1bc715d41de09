// code[n, c] = argmin_k dist(x[n, c], prototypes[c, k]), the lowest k among equals, straight from
// the rows or the activation map. Reference: nearest_encode_reference in tests/oracles/nearest.py.
//
// Channels are copied into padded planes a few at a time, so that a tile of 64 rows is read by
// whole vectors; 4 prototypes are compared with several vectors of rows at once.
#include "../codebooks.h"

HALUT_BEGIN

namespace {

constexpr int64_t span_floats = 1 << 14;  // of planes: what the first-level cache holds, or nearly
constexpr int64_t cell_codebooks = 16;
#if defined(HALUT_AVX512)
constexpr int rows_at_once = 4;
#else
constexpr int rows_at_once = 2;
#endif

typedef uint8_t Codes __attribute__((vector_size(lanes)));

template <int64_t metric, int R>
void encode_rows(const float* x, int64_t rows, int64_t width, const Codebook& codebook, int64_t K,
                 uint8_t* codes) {
  for (int64_t n = 0; n < rows; n += R * lanes) {
    floats best[R];
    ints index[R], invalid[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      best[r] = splat(-__builtin_inff());
      index[r] = invalid[r] = ints{};
    }
    if (metric == chebyshev)
      for (int64_t v = 0; v < width; v++)
        for (int r = 0; r < R; r++) {
          const floats input = load(x + v * tile_pitch + n + r * lanes);
          invalid[r] |= input != input;
        }
    for (int64_t k = 0; k < padded(K); k += together) {
      floats scores[together][R];
      score<metric, R>(x + n, width, codebook, k, scores);
      if (metric != chebyshev && k == 0)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) invalid[r] = scores[0][r] != scores[0][r];
#pragma GCC unroll 4
      for (int i = 0; i < together; i++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          index[r] = scores[i][r] > best[r] ? static_cast<int32_t>(k + i) - ints{} : index[r];
          best[r] = larger(scores[i][r], best[r]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      index[r] = invalid[r] ? static_cast<int32_t>(K - 1) - ints{} : index[r];
      const Codes narrow = __builtin_convertvector(index[r], Codes);
      __builtin_memcpy(codes + n + r * lanes, &narrow, lanes);
    }
  }
}

template <int64_t metric>
void encode_tile(const float* x, int64_t rows, int64_t width, const Codebook& codebook, int64_t K,
                 uint8_t* codes) {
  if (rows <= lanes) return encode_rows<metric, 1>(x, rows, width, codebook, K, codes);
  encode_rows<metric, rows_at_once>(x, rows, width, codebook, K, codes);
}

void encode_tile(int64_t metric, const float* x, int64_t rows, int64_t width,
                 const Codebook& codebook, int64_t K, uint8_t* codes) {
  if (metric == l2) return encode_tile<l2>(x, rows, width, codebook, K, codes);
  if (metric == l1) return encode_tile<l1>(x, rows, width, codebook, K, codes);
  encode_tile<chebyshev>(x, rows, width, codebook, K, codes);
}

typedef uint8_t Bytes16 __attribute__((vector_size(16)));

inline void transpose(Bytes16 rows[16]) {
  const Bytes16 low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  const Bytes16 high = low + 8;
#pragma GCC unroll 4
  for (int step = 0; step < 4; step++) {
    Bytes16 out[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      out[2 * i] = __builtin_shuffle(rows[i], rows[i + 8], low);
      out[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + 8], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) rows[i] = out[i];
  }
}

// codes [count][tile_rows] of one tile, readable up to a multiple of 16 codebooks, -> out[n][count], `pitch` bytes from row to row.
void write_rows(const uint8_t* codes, int64_t count, int64_t rows, uint8_t* out, int64_t pitch) {
  for (int64_t c = 0; c < count; c += 16)
    for (int64_t n = 0; n < rows; n += 16) {
      Bytes16 block[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        __builtin_memcpy(&block[i], codes + (c + i) * tile_rows + n, sizeof block[i]);
      transpose(block);
      uint8_t* const to = out + n * pitch + c;
      if (count - c >= 16 && rows - n >= 16) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) __builtin_memcpy(to + i * pitch, &block[i], sizeof block[i]);
      } else {
        for (int64_t i = 0; i < smaller_of(rows - n, 16); i++)
          for (int64_t j = 0; j < smaller_of(count - c, 16); j++) to[i * pitch + j] = block[i][j];
      }
    }
}

}  // namespace

// prototypes [GC, K, V] float, codes [N, GC]; D inputs and C codebooks per group.
void nearest_encode(const View& view, const float* prototypes, uint8_t* codes, int64_t D, int64_t C,
                    int64_t groups, int64_t K, int64_t metric, int threads) {
  const Blocks blocks{D, C, groups};
  const int64_t N = view.rows(), GC = C * groups, V = (D + C - 1) / C, area = view.kh * view.kw;
  if (N == 0) return;
  const Cells cells{blocks, area, 0, GC, cell_codebooks};
  const int64_t size = Codebook::size(K, V), number = cells.count(), channels = cells.widest();
  const int64_t tiles = larger_of(1, smaller_of(8, span_floats / tile_rows / channels));
  const int64_t rows = smaller_of(tiles * tile_rows, N), spans = (N + rows - 1) / rows;
  int64_t* cut = static_cast<int64_t*>(__builtin_malloc((number + 1) * sizeof(int64_t)));
  float* packed = static_cast<float*>(__builtin_malloc(GC * size * sizeof(float)));
  cells.write(cut);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for
    for (int64_t c = 0; c < GC; c++)
      Codebook(packed + c * size, K, V).fill(prototypes + c * K * V, K, V, blocks.width(c), metric);
    void* spanned = __builtin_malloc(span_bytes(view, rows));
    float* planes = nullptr;
    int64_t held = 0;
    const int64_t tile_size = (V + 1) * tile_pitch;
    // Zeros, since arithmetic on what memory held before may be a hundred times slower.
    float* x = static_cast<float*>(__builtin_calloc(2 * tile_size, sizeof(float)));
    uint8_t* found = static_cast<uint8_t*>(__builtin_malloc((cells.longest() + 15) * tile_rows));
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < spans * number; item++) {
      const int64_t n0 = item / number * rows, n1 = smaller_of(n0 + rows, N);
      const int64_t first = cut[item % number], last = cut[item % number + 1];
      const Span span = make_span(view, n0, n1, spanned);
      if (channels * span.plane > held) {
        __builtin_free(planes);
        held = channels * span.plane;
        planes = static_cast<float*>(__builtin_malloc(held * sizeof(float)));
      }
      const int64_t c0 = cells.first_channel(first);
      fill_planes(span, c0, cells.channel_end(last), planes);
      for (int64_t t = 0; t < span.tiles; t++) {
        const int64_t n = n0 + t * tile_rows, used = smaller_of(tile_rows, n1 - n);
        // A tile is read one codebook ahead, so that its stores have long left when it is loaded.
        for (int64_t c = first; c <= last; c++) {
          if (c < last)
            read_tile(span, t, planes, c0, area, blocks.start(c), blocks.width(c),
                      Codebook(packed + c * size, K, V).origin, x + c % 2 * tile_size);
          if (c == first) continue;
          const int64_t d = c - 1, width = blocks.width(d);
          encode_tile(metric, x + d % 2 * tile_size, used, width,
                      Codebook(packed + d * size, K, V), K, found + (d - first) * tile_rows);
        }
        write_rows(found, last - first, used, codes + n * GC + first, GC);
      }
    }
    __builtin_free(found);
    __builtin_free(x);
    __builtin_free(planes);
    __builtin_free(spanned);
  }
  __builtin_free(packed);
  __builtin_free(cut);
}

HALUT_END
