// The packed table and the codes that go with it, in the layout of the level's shuffle.
//
// avx512vbmi: one byte permute looks up four codebooks of 16 rows, and a dot product with ones adds
//   them to 32-bit sums: exact, 64 look-ups per two instructions.
//   codes  [rows / 16][line][16 rows][4 codebooks] bytes, code + 16 * (codebook mod 4)
//   table  [M / 4][C / 4][4 outputs][4 codebooks][16] signed bytes
// the others: one byte shuffle looks up one codebook of 16, 32 or 64 rows; bytes biased by 128 are
//   added in 16 bits, low and high bytes apart (A += s, H += s >> 8, low = A - (H << 8)), exact for
//   256 codebooks, after which sums move to 32 bits.
//   codes  [rows / 64][line][64 rows] bytes
//   table  [M / 4][C][4 outputs][16] bytes, entry + 128
// A line count is odd, so that rows of codes do not fall on the same sets of the cache. Tables start
// with a header of 64 bytes; outputs and codebooks are filled up with entries that add nothing.
#pragma once

#include "level.h"

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi) || defined(HALUT_IS_avx2)
#include <immintrin.h>
#endif

namespace halut {

struct PackedHeader {
  int64_t magic, layout, G, C, K, M, unused[2];
};
constexpr int64_t packed_magic = 0x4854554c;

}  // namespace halut

HALUT_BEGIN
namespace {

#if defined(HALUT_IS_avx512vbmi)
constexpr int64_t packed_layout = 1;
constexpr int64_t quad = 4;  // codebooks of one line of codes
constexpr int64_t code_rows = 16;
#else
constexpr int64_t packed_layout = 2;
constexpr int64_t quad = 1;
constexpr int64_t code_rows = 64;
#endif
constexpr int64_t tile_rows = 64, tile_outputs = 4;

inline int64_t lines(int64_t C) { return (C + quad - 1) / quad; }
inline int64_t code_stride(int64_t C) { return (lines(C) | 1) * 64; }
inline int64_t output_tiles(int64_t M) { return (M + tile_outputs - 1) / tile_outputs; }
inline int64_t tile_bytes(int64_t C) { return lines(C) * quad * tile_outputs * 16; }

// What of the table is read soon, to be fetched while a tile computes: `count` cache lines of each
// quarter of the next four outputs. Memory answers four places faster than one: a core waits for
// few lines at a time, and its own prefetcher follows every page.
struct Soon {
  const uint8_t* from;
  int64_t quarter, count;

  // Share `part` of `parts` of the four outputs behind `table`.
  static Soon share(const uint8_t* table, int64_t C, int64_t part, int64_t parts) {
    const int64_t begin = lines(C) * part / parts, end = lines(C) * (part + 1) / parts;
    return {table + tile_bytes(C) + begin * 64, lines(C) * 64, end - begin};
  }
};

// Sums of 64 rows and 4 outputs: sums[output][row], from codes at the tile's first row.
#if defined(HALUT_IS_avx512vbmi)
template <int groups>
inline void group_sums(const uint8_t* codes, const uint8_t* table, int64_t C, const Soon& soon,
                       int32_t (*sums)[64]) {
  const __m512i ones = _mm512_set1_epi8(1);
  const int64_t L = lines(C), stride = code_stride(C);
  __m512i a[4][groups];
  for (auto& row : a)
    for (auto& sum : row) sum = _mm512_setzero_si512();
  for (int64_t l = 0; l < L; l++) {
    __m512i i[groups];
#pragma GCC unroll 4
    for (int r = 0; r < groups; r++) i[r] = _mm512_load_si512(codes + l * 64 + r * stride);
    const uint8_t* next = l < soon.count ? soon.from + l * 64 : table;
    const int64_t quarter = l < soon.count ? soon.quarter : 0;
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++) {
      const __m512i t = _mm512_loadu_si512(table + (l * 4 + m) * 64);
      _mm_prefetch(reinterpret_cast<const char*>(next + m * quarter), _MM_HINT_T0);
#pragma GCC unroll 4
      for (int r = 0; r < groups; r++)
        a[m][r] = _mm512_dpbusd_epi32(a[m][r], ones, _mm512_permutexvar_epi8(i[r], t));
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < 4; m++)
#pragma GCC unroll 4
    for (int r = 0; r < groups; r++) _mm512_storeu_si512(sums[m] + 16 * r, a[m][r]);
}

// `groups` of 16 rows, 1 to 4.
inline void tile_sums(const uint8_t* codes, const uint8_t* table, int64_t C, int64_t groups,
                      const Soon& soon, int32_t (*sums)[64]) {
  switch (groups) {
    case 1:
      return group_sums<1>(codes, table, C, soon, sums);
    case 2:
      return group_sums<2>(codes, table, C, soon, sums);
    case 3:
      return group_sums<3>(codes, table, C, soon, sums);
    default:
      return group_sums<4>(codes, table, C, soon, sums);
  }
}
#else

#if defined(HALUT_IS_avx512)
using Vector = __m512i;
inline Vector vload(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Vector vrow(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vector vshuffle(Vector t, Vector i) { return _mm512_shuffle_epi8(t, i); }
inline Vector vadd16(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
inline Vector vsub16(Vector a, Vector b) { return _mm512_sub_epi16(a, b); }
inline Vector vhigh(Vector a) { return _mm512_srli_epi16(a, 8); }
inline Vector vup(Vector a) { return _mm512_slli_epi16(a, 8); }
inline Vector vzero() { return _mm512_setzero_si512(); }
inline void vstore(uint16_t* p, Vector a) { _mm512_storeu_si512(p, a); }
#elif defined(HALUT_IS_avx2)
using Vector = __m256i;
inline Vector vload(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline Vector vrow(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vector vshuffle(Vector t, Vector i) { return _mm256_shuffle_epi8(t, i); }
inline Vector vadd16(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
inline Vector vsub16(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }
inline Vector vhigh(Vector a) { return _mm256_srli_epi16(a, 8); }
inline Vector vup(Vector a) { return _mm256_slli_epi16(a, 8); }
inline Vector vzero() { return _mm256_setzero_si256(); }
inline void vstore(uint16_t* p, Vector a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
}
#else
// 16 bytes as arrays: what a compiler without byte shuffles makes of it.
struct Vector {
  uint8_t b[16];
};
inline Vector vload(const uint8_t* p) {
  Vector v;
  for (int i = 0; i < 16; i++) v.b[i] = p[i];
  return v;
}
inline Vector vrow(const uint8_t* p) { return vload(p); }
inline Vector vshuffle(Vector t, Vector i) {
  Vector v;
  for (int j = 0; j < 16; j++) v.b[j] = t.b[i.b[j]];
  return v;
}
#endif

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx2)
constexpr int vector_rows = static_cast<int>(sizeof(Vector));

// One run of at most 256 codebooks; biased sums are corrected by the caller.
inline void run_sums(const uint8_t* codes, const uint8_t* table, int64_t C, int rows,
                     int32_t (*sums)[64]) {
  Vector A[4], H[4];
  for (int m = 0; m < 4; m++) A[m] = H[m] = vzero();
  for (int64_t c = 0; c < C; c++) {
    const Vector i = vload(codes + c * 64);
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++) {
      const Vector s = vshuffle(vrow(table + (c * 4 + m) * 16), i);
      A[m] = vadd16(A[m], s);
      H[m] = vadd16(H[m], vhigh(s));
    }
  }
  uint16_t low[vector_rows / 2], high[vector_rows / 2];
  for (int m = 0; m < 4; m++) {
    vstore(low, vsub16(A[m], vup(H[m])));
    vstore(high, H[m]);
    int32_t* y = sums[m] + rows;
    for (int i = 0; i < vector_rows / 2; i++) {
      y[2 * i] += low[i];
      y[2 * i + 1] += high[i];
    }
  }
}
#else
constexpr int vector_rows = 16;

inline void run_sums(const uint8_t* codes, const uint8_t* table, int64_t C, int rows,
                     int32_t (*sums)[64]) {
  uint16_t total[4][16] = {};
  for (int64_t c = 0; c < C; c++) {
    const Vector i = vload(codes + c * 64);
    for (int m = 0; m < 4; m++) {
      const Vector s = vshuffle(vrow(table + (c * 4 + m) * 16), i);
      for (int j = 0; j < 16; j++) total[m][j] = static_cast<uint16_t>(total[m][j] + s.b[j]);
    }
  }
  for (int m = 0; m < 4; m++)
    for (int j = 0; j < 16; j++) sums[m][rows + j] += total[m][j];
}
#endif

inline void tile_sums(const uint8_t* codes, const uint8_t* table, int64_t C, int64_t,
                      const Soon&, int32_t (*sums)[64]) {
  const int32_t start = -128 * static_cast<int32_t>(C);
  for (int m = 0; m < 4; m++)
    for (int j = 0; j < 64; j++) sums[m][j] = start;
  for (int64_t c = 0; c < C; c += 256) {
    const int64_t run = C - c < 256 ? C - c : 256;
    for (int rows = 0; rows < 64; rows += vector_rows)
      run_sums(codes + c * 64 + rows, table + c * 64, run, rows, sums);
  }
}
#endif

}  // namespace
HALUT_END
