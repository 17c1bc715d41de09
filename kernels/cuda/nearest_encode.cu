// code[n, c] = argmin_k dist(x[n, c], prototypes[c, k]), from rows or from an activation map.
// Reference: nearest_encode_reference in tests/oracles/nearest.py.
//
// A thread has one row and the distances to sixteen prototypes in registers; inputs and prototypes
// come through shared memory, inputs in whichever order they lie in memory. Differences are squared
// as they are, so that close prototypes far from the origin stay apart.
#include "device.cuh"

namespace {

enum Metric { l2, l1, chebyshev };

constexpr int block_rows = 128;  // and threads
constexpr int pitch = block_rows + 1;
constexpr int max_inputs = 32;  // of a block held at once
constexpr int prototypes_at_once = 16;
constexpr int books = 8;  // codebooks of one block

template <int METRIC>
DEVICE void nearest_encode(const View& v, const float* prototypes, u8* codes, i64 N, i64 D, i64 C,
                           i64 groups, i64 K, i64 V, int by_row) {
  SHARED(float, x, max_inputs * pitch);
  SHARED(float, p, max_inputs * prototypes_at_once);
  SHARED(Row, window, block_rows);
  SHARED(Tap, taps, max_inputs);
  SHARED(u8, tile, block_rows * books);
  const i64 GC = groups * C, book_tiles = (GC + books - 1) / books;
  const i64 row_tile = divided(blockIdx.x, book_tiles);
  const i64 n0 = row_tile * block_rows;
  const i64 c0 = (blockIdx.x - row_tile * book_tiles) * books;
  const int rows = static_cast<int>(N - n0 < block_rows ? N - n0 : block_rows);
  const int count = static_cast<int>(GC - c0 < books ? GC - c0 : books);
  const int tid = threadIdx.x;
  const int dtype = static_cast<int>(v.dtype);
  const i64 narrow = D / C, wider = D - narrow * C;
  if (tid < rows) window[tid] = row_of(v, n0 + tid);

  for (int book = 0; book < count; book++) {
    const i64 gc = c0 + book, g = divided(gc, C), c = gc - g * C;
    const i64 start = g * D + c * narrow + (c < wider ? c : wider);
    const i64 width = narrow + (c < wider);
    float best = INFINITE;
    int code = -1;
    bool unordered = false;  // a row with NaN has no nearest prototype
    for (i64 k0 = 0; k0 < K; k0 += prototypes_at_once) {
      float distance[prototypes_at_once];
#pragma unroll
      for (int j = 0; j < prototypes_at_once; j++) distance[j] = 0;
      for (i64 v0 = 0; v0 < V; v0 += max_inputs) {
        const int inputs = static_cast<int>(V - v0 < max_inputs ? V - v0 : max_inputs);
        if (tid < inputs) taps[tid] = tap_of(v, start + (v0 + tid < width ? v0 + tid : 0));
        __syncthreads();
        if (V > max_inputs || k0 == 0) {
          for (int i = tid; i < rows * inputs; i += block_rows) {
            const int r = by_row ? i % rows : i / inputs, at = by_row ? i / rows : i % inputs;
            const bool real = v0 + at < width && inside(v, window[r], taps[at]);
            x[at * pitch + r] = real ? load_as(v.data, window[r].base + taps[at].offset, dtype) : 0.f;
          }
        }
        for (int i = tid; i < inputs * prototypes_at_once; i += block_rows) {
          const int j = i / inputs, at = i % inputs;
          p[at * prototypes_at_once + j] =
              k0 + j < K ? prototypes[(gc * K + k0 + j) * V + v0 + at] : 0.f;
        }
        __syncthreads();
        if (tid >= rows) continue;
        for (int at = 0; at < inputs; at++) {
          const float value = x[at * pitch + tid];
          unordered |= value != value;
#pragma unroll
          for (int j = 0; j < prototypes_at_once; j++) {
            const float gap = value - p[at * prototypes_at_once + j];
            if (METRIC == l2) distance[j] += gap * gap;
            if (METRIC == l1) distance[j] += fabsf(gap);
            if (METRIC == chebyshev) distance[j] = fmaxf(distance[j], fabsf(gap));
          }
        }
      }
#pragma unroll
      for (int j = 0; j < prototypes_at_once; j++) {
        if (k0 + j < K && (distance[j] < best || code < 0)) {
          best = distance[j];
          code = static_cast<int>(k0) + j;
        }
      }
    }
    tile[tid * books + book] = static_cast<u8>(unordered ? K - 1 : code);
  }
  __syncthreads();
  for (int i = tid; i < rows * books; i += block_rows) {
    const int r = i / books, book = i % books;
    if (book < count) codes[(n0 + r) * GC + c0 + book] = tile[i];
  }
}

}  // namespace

#define ENTRY(metric)                                                                          \
  extern "C" __global__ void __launch_bounds__(block_rows, 6)                                  \
      nearest_encode_##metric(const View v, const float* prototypes, u8* codes, i64 N, i64 D,  \
                              i64 C, i64 groups, i64 K, i64 V, int by_row) {                   \
    nearest_encode<metric>(v, prototypes, codes, N, D, C, groups, K, V, by_row);               \
  }

ENTRY(l2)
ENTRY(l1)
ENTRY(chebyshev)
