// y[n, g, m] = sum_c table[g, c, codes[n, g, c], m]: the general kernels, for any K and any C.
// Reference: accumulate_reference in halut/ops/lookup.py.
//
// int8: table rows are contiguous, so one row is added at a time. A slice of the table that stays
// in the second-level cache serves a block of rows before the next slice is read.
// float: a slice of outputs stays in registers over all codebooks, added in their order.
#include "../lanes.h"
#include "../view.h"

HALUT_BEGIN

namespace {

constexpr int64_t block_rows = 64;

template <typename Entry, typename Sum>
void add_rows(const uint8_t* codes, const Entry* table, Sum* out, int64_t n0, int64_t n1,
              int64_t G, int64_t C, int64_t K, int64_t M, int64_t slice) {
  for (int64_t g = 0; g < G; g++) {
    for (int64_t n = n0; n < n1; n++) {
      Sum* y = out + (n * G + g) * M;
      for (int64_t m = 0; m < M; m++) y[m] = 0;
    }
    for (int64_t c0 = 0; c0 < C; c0 += slice) {
      const int64_t c1 = c0 + slice < C ? c0 + slice : C;
      for (int64_t n = n0; n < n1; n++) {
        Sum* __restrict y = out + (n * G + g) * M;
        const uint8_t* code = codes + (n * G + g) * C;
        for (int64_t c = c0; c < c1; c++) {
          if (code[c] >= K) continue;
          const Entry* __restrict row = table + ((g * C + c) * K + code[c]) * M;
          for (int64_t m = 0; m < M; m++) y[m] += row[m];
        }
      }
    }
  }
}

template <typename Entry, typename Sum>
void accumulate(const uint8_t* codes, const Entry* table, Sum* out, int64_t N, int64_t G,
                int64_t C, int64_t K, int64_t M, int threads) {
  const int64_t bytes = K * M * static_cast<int64_t>(sizeof(Entry));
  const int64_t slice = bytes < (1 << 19) ? (1 << 19) / bytes : 1;
  const int64_t blocks = (N + block_rows - 1) / block_rows;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t n0 = block * block_rows;
    const int64_t n1 = n0 + block_rows < N ? n0 + block_rows : N;
    add_rows(codes, table, out, n0, n1, G, C, K, M, slice);
  }
}

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

}  // namespace

void accumulate_float(const uint8_t* codes, const float* table, float* out, int64_t N, int64_t G,
                      int64_t C, int64_t K, int64_t M, int threads) {
  int64_t slice = 8 * lanes;
  while (slice > lanes && C * K * slice * 4 > slice_bytes) slice /= 2;
  const int64_t slices = (M + slice - 1) / slice, blocks = (N + block_rows - 1) / block_rows;
  // Blocks of rows vary fastest: all threads read one slice of the table after the other.
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t task = 0; task < G * slices * blocks; task++) {
    const int64_t g = task / (slices * blocks), m0 = task / blocks % slices * slice;
    const int64_t n0 = task % blocks * block_rows;
    const int64_t rows = N - n0 < block_rows ? N - n0 : block_rows;
    const int64_t width = M - m0 < slice ? M - m0 : slice;
    sum_rows(codes + (n0 * G + g) * C, table + g * C * K * M + m0, out + (n0 * G + g) * M + m0,
             rows, G, C, K, M, width);
  }
}

void accumulate_int8(const uint8_t* codes, const int8_t* table, int32_t* out, int64_t N, int64_t G,
                     int64_t C, int64_t K, int64_t M, int threads) {
  accumulate(codes, table, out, N, G, C, K, M, threads);
}

HALUT_END
