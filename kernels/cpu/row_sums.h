// Sums of int8 table rows as they lie, [C, K, M]: any K, and only the rows in use are read.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "level.h"

HALUT_BEGIN
namespace {

constexpr int64_t row_run = 256;  // codebooks whose sum of int8 fits 16 bits

// `words` outputs and their 16-bit sums; a compiler's own conversion takes three times the steps.
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
constexpr int64_t words = 32;
typedef int16_t Words __attribute__((vector_size(64)));
inline Words widened_bytes(const int8_t* row) {
  return (Words)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row)));
}
#elif defined(HALUT_IS_avx2)
constexpr int64_t words = 16;
typedef int16_t Words __attribute__((vector_size(32)));
inline Words widened_bytes(const int8_t* row) {
  return (Words)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)));
}
#else
constexpr int64_t words = 16;
typedef int8_t Bytes __attribute__((vector_size(16)));
typedef int16_t Words __attribute__((vector_size(32)));
inline Words widened_bytes(const int8_t* row) {
  Bytes bytes;
  memcpy(&bytes, row, sizeof bytes);
  return __builtin_convertvector(bytes, Words);
}
#endif
constexpr int64_t widest = 8 * words;

// sums[i] += what the codebooks' rows hold at output i < parts * words.
template <int parts>
void add_parts(const uint8_t* codes, const int8_t* table, int64_t C, int64_t K, int64_t M,
               int32_t* sums) {
  for (int64_t c0 = 0; c0 < C; c0 += row_run) {
    const int64_t c1 = c0 + row_run < C ? c0 + row_run : C;
    Words total[parts] = {};
    for (int64_t c = c0; c < c1; c++) {
      if (codes[c] >= K) continue;
      const int8_t* row = table + (c * K + codes[c]) * M;
#pragma GCC unroll 8
      for (int i = 0; i < parts; i++) total[i] += widened_bytes(row + words * i);
    }
    for (int i = 0; i < parts * words; i++) sums[i] += total[i / words][i % words];
  }
}

// sums[i] = sum_c table[c, codes[c], i] for i < width; table at the first output, codes of one row.
// Codes of K or more add nothing.
inline void sum_table_rows(const uint8_t* codes, const int8_t* table, int64_t C, int64_t K,
                           int64_t M, int64_t width, int32_t* sums) {
  memset(sums, 0, static_cast<size_t>(width) * sizeof(int32_t));
  int64_t m = 0;
  const auto each = [&](int64_t step, auto add) {
    for (; m + step <= width; m += step) add(codes, table + m, C, K, M, sums + m);
  };
  each(8 * words, add_parts<8>);
  each(4 * words, add_parts<4>);
  each(2 * words, add_parts<2>);
  each(words, add_parts<1>);
  if (m == width) return;
  for (int64_t c = 0; c < C; c++) {
    if (codes[c] >= K) continue;
    const int8_t* row = table + (c * K + codes[c]) * M;
    for (int64_t i = m; i < width; i++) sums[i] += row[i];
  }
}

}  // namespace
HALUT_END
