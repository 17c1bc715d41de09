// y[n, g, m] = sum_c table[g, c, codes[n, g, c], m]: the general kernels, for any K and any C.
// Reference: accumulate_reference in halut/ops/lookup.py.
//
// Table rows are contiguous, so one row is added at a time. A slice of the table that stays in the
// second-level cache serves a block of rows before the next slice is read.
#include "../level.h"
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

}  // namespace

void accumulate_float(const uint8_t* codes, const float* table, float* out, int64_t N, int64_t G,
                      int64_t C, int64_t K, int64_t M, int threads) {
  accumulate(codes, table, out, N, G, C, K, M, threads);
}

void accumulate_int8(const uint8_t* codes, const int8_t* table, int32_t* out, int64_t N, int64_t G,
                     int64_t C, int64_t K, int64_t M, int threads) {
  accumulate(codes, table, out, N, G, C, K, M, threads);
}

HALUT_END
