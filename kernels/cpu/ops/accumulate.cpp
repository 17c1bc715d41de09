// y[n, g, m] = sum_c table[g, c, codes[n, g, c], m]: the general kernels, for any K and any C.
// Reference: accumulate_reference in tests/oracles/lookup.py.
//
// A slice of outputs stays in registers over all codebooks: floats, added in the codebooks' order,
// or 16-bit sums of int8. The slice of the table stays in the second-level cache for all rows.
#include "../lanes.h"
#include "../row_sums.h"
#include "../view.h"

HALUT_BEGIN

namespace {

constexpr int64_t block_rows = 64;

constexpr int64_t slice_bytes = 1 << 20;  // of the table that a slice of outputs reads

// Outputs m0 .. m0 + vectors * lanes of rows n0 .. n1 of one group.
template <int vectors>
void sum_slice(const uint8_t* codes, int64_t stride, const float* table, float* out,
               int64_t out_stride, int64_t rows, int64_t C, int64_t K, int64_t M) {
  for (int64_t n = 0; n < rows; n++, codes += stride, out += out_stride) {
    floats sums[vectors] = {};
    for (int64_t c = 0; c < C; c++) {
      if (codes[c] >= K) continue;
      const float* row = table + (c * K + codes[c]) * M;
#pragma GCC unroll 8
      for (int v = 0; v < vectors; v++) sums[v] += load(row + v * lanes);
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) store(out + v * lanes, sums[v]);
  }
}

void sum_rest(const uint8_t* codes, int64_t stride, const float* table, float* out,
              int64_t out_stride, int64_t rows, int64_t width, int64_t C, int64_t K, int64_t M) {
  for (int64_t n = 0; n < rows; n++, codes += stride, out += out_stride) {
    float sums[lanes] = {};
    for (int64_t c = 0; c < C; c++) {
      if (codes[c] >= K) continue;
      const float* row = table + (c * K + codes[c]) * M;
      for (int64_t m = 0; m < width; m++) sums[m] += row[m];
    }
    for (int64_t m = 0; m < width; m++) out[m] = sums[m];
  }
}

void sum_rows(const uint8_t* codes, const float* table, float* out, int64_t rows, int64_t G,
              int64_t C, int64_t K, int64_t M, int64_t width) {
  const int64_t stride = G * C, out_stride = G * M;
  int64_t m = 0;
  const auto each = [&](int64_t step, auto run) {
    for (; m + step <= width; m += step)
      run(codes, stride, table + m, out + m, out_stride, rows, C, K, M);
  };
  each(8 * lanes, sum_slice<8>);
  each(4 * lanes, sum_slice<4>);
  each(lanes, sum_slice<1>);
  if (m < width)
    sum_rest(codes, stride, table + m, out + m, out_stride, rows, width - m, C, K, M);
}

// Calls run(first row, rows, group, first output, outputs) for blocks of rows and slices of outputs.
// Blocks of rows vary fastest: all threads read one slice of the table after the other.
template <class Run>
void each_slice(int64_t N, int64_t G, int64_t M, int64_t slice, int threads, Run run) {
  const int64_t slices = (M + slice - 1) / slice, blocks = (N + block_rows - 1) / block_rows;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t task = 0; task < G * slices * blocks; task++) {
    const int64_t g = task / (slices * blocks), m0 = task / blocks % slices * slice;
    const int64_t n0 = task % blocks * block_rows;
    const int64_t rows = N - n0 < block_rows ? N - n0 : block_rows;
    run(n0, rows, g, m0, M - m0 < slice ? M - m0 : slice);
  }
}

// Outputs, at most `most`, whose part of the table stays in the cache.
inline int64_t slice_of(int64_t most, int64_t least, int64_t bytes) {
  while (most > least && most * bytes > slice_bytes) most /= 2;
  return most;
}

}  // namespace

void accumulate_float(const uint8_t* codes, const float* table, float* out, int64_t N, int64_t G,
                      int64_t C, int64_t K, int64_t M, int threads) {
  const int64_t slice = slice_of(8 * lanes, lanes, C * K * 4);
  each_slice(N, G, M, slice, threads,
             [=](int64_t n0, int64_t rows, int64_t g, int64_t m0, int64_t width) {
               sum_rows(codes + (n0 * G + g) * C, table + g * C * K * M + m0,
                        out + (n0 * G + g) * M + m0, rows, G, C, K, M, width);
             });
}

void accumulate_int8(const uint8_t* codes, const int8_t* table, int32_t* out, int64_t N, int64_t G,
                     int64_t C, int64_t K, int64_t M, int threads) {
  const int64_t slice = slice_of(widest, words, C * K);
  each_slice(N, G, M, slice, threads,
             [=](int64_t n0, int64_t rows, int64_t g, int64_t m0, int64_t width) {
               for (int64_t n = n0; n < n0 + rows; n++)
                 sum_table_rows(codes + (n * G + g) * C, table + g * C * K * M + m0, C, K, M, width,
                                out + (n * G + g) * M + m0);
             });
}

HALUT_END
