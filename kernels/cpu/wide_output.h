// Outputs in whole cache lines, for what most tiles are: 64 positions side by side in a plane, or 64
// outputs side by side in a row. The same arithmetic as put16, which takes all the others.
#pragma once

#include "output.h"

HALUT_BEGIN
namespace {

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
// Whether the segments are one run of the plane from the tile's first position on.
inline bool one_run(const Segment* segments, int64_t n) {
  for (int64_t s = 0; s < n; s++) {
    const Segment& segment = segments[s];
    if (segment.group != s || segment.at != segments[0].at + 16 * s) return false;
    if (segment.mask != (s + 1 < n ? 0xffff : segment.kept)) return false;
  }
  return n > 0;
}

// Four times 16 integers as bytes: dword 4 k + j of the answer holds 4 k .. 4 k + 3 of v[j].
template <bool below_zero>
inline __m512i bytes_of(const __m512i* v) {
  const __m512i low = _mm512_packs_epi32(v[0], v[1]), high = _mm512_packs_epi32(v[2], v[3]);
  return below_zero ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
}

// Bytes of one run of a plane: `count` <= 4 outputs, up to 64 positions of each.
template <bool below_zero>
inline void write_byte_planes(const Output& out, const int32_t (*sums)[64], int64_t m, int count,
                              const Segment* segments, int64_t n) {
  const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const int64_t unused = 64 - 16 * (n - 1) - __builtin_popcount(segments[n - 1].mask);
  const __mmask64 kept = ~uint64_t{0} >> unused;
  const __m512 least = _mm512_set1_ps(out.low);
  for (int i = 0; i < count; i++) {
    const __m512 scale = _mm512_set1_ps(out.scale[m + i]), bias = _mm512_set1_ps(out.bias[m + i]);
    const int64_t at = (m + i) * out.plane + segments[0].at;
    __m512i v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const __m512i sum = _mm512_loadu_si512(sums[i] + 16 * j);
      __m512 y = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), bias);
      if (out.residual)
        y = _mm512_add_ps(y, residual16(out, at + 16 * j, static_cast<__mmask16>(kept >> 16 * j)));
      v[j] = rounded(_mm512_max_ps(least, y));
    }
    const __m512i line = _mm512_permutexvar_epi32(in_order, bytes_of<below_zero>(v));
    _mm512_mask_storeu_epi8(static_cast<int8_t*>(out.data) + at, kept, line);
  }
}

// 16 bytes as four rows of four: the rows become columns.
inline __m512i turned(__m512i bytes) {
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}

// The residuals of 64 outputs and the rows of a segment: answer[q] holds outputs 4 q .. 4 q + 3, for
// every four rows 16 bytes, output by output.
inline void read_byte_rows(const int8_t* from, int64_t stride, unsigned mask, __m512i* answer) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    answer[i] = mask >> i & 1 ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
    from += mask >> i & 1 ? stride : 0;
  }
  transpose16(answer);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) answer[i] = turned(answer[i]);
}

// Output `j` of the four of `residuals`, 16 rows of it.
inline __m512 one_output(const Output& out, __m512i residuals, int j) {
  const __m512i pick = _mm512_castsi128_si512(_mm_setr_epi32(j, 4 + j, 8 + j, 12 + j));
  const __m128i bytes = _mm512_castsi512_si128(_mm512_permutexvar_epi32(pick, residuals));
  const bool below_zero = out.residual_dtype == static_cast<int64_t>(Dtype::i8);
  const __m512i wide = below_zero ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
  return _mm512_mul_ps(_mm512_cvtepi32_ps(wide), _mm512_set1_ps(out.residual_scale));
}

// Bytes of 64 outputs from `m` on as rows of one segment; sums[tile of outputs][output][row].
template <bool below_zero, bool residual>
inline void write_byte_rows(const Output& out, const int32_t (*sums)[4][64], int64_t m,
                            const Segment& segment) {
  const __m512 least = _mm512_set1_ps(out.low);
  const int64_t at = segment.at * out.channels + m;
  __m512i r[16], residuals[16];
  if (residual)
    read_byte_rows(static_cast<const int8_t*>(out.residual) + at, out.channels, segment.mask,
                   residuals);
#pragma GCC unroll 2
  for (int q = 0; q < 16; q++) {
    __m512i v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const int64_t output = m + 4 * q + j;
      const __m512i sum = _mm512_loadu_si512(sums[q][j] + segment.group * 16);
      const __m512 scale = _mm512_set1_ps(out.scale[output]);
      const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
      __m512 y = _mm512_add_ps(scaled, _mm512_set1_ps(out.bias[output]));
      if (residual) y = _mm512_add_ps(y, one_output(out, residuals[q], j));
      v[j] = rounded(_mm512_max_ps(least, y));
    }
    r[q] = turned(bytes_of<below_zero>(v));
  }
  transpose16(r);
  int8_t* to = static_cast<int8_t*>(out.data) + at;
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    if (segment.mask >> i & 1) _mm512_storeu_si512(to, r[i]);
    to += segment.mask >> i & 1 ? out.channels : 0;
  }
}

// The two above where they serve; false where put16 has to.
inline bool is_byte(int64_t dtype) {
  return dtype == static_cast<int64_t>(Dtype::i8) || dtype == static_cast<int64_t>(Dtype::u8);
}

inline bool write_run(const Output& out, const int32_t (*sums)[64], int64_t m, int count,
                      const Segment* segments, int64_t n) {
  if (!out.contiguous || !is_byte(out.dtype) || !out.vectors() || !one_run(segments, n)) return false;
  if (out.dtype == static_cast<int64_t>(Dtype::i8))
    write_byte_planes<true>(out, sums, m, count, segments, n);
  else
    write_byte_planes<false>(out, sums, m, count, segments, n);
  return true;
}

inline bool write_64(const Output& out, const int32_t (*sums)[4][64], int64_t m,
                     const Segment& segment) {
  if (!is_byte(out.dtype) || (out.residual && !is_byte(out.residual_dtype))) return false;
  const bool below_zero = out.dtype == static_cast<int64_t>(Dtype::i8);
  if (out.residual)
    below_zero ? write_byte_rows<true, true>(out, sums, m, segment)
               : write_byte_rows<false, true>(out, sums, m, segment);
  else
    below_zero ? write_byte_rows<true, false>(out, sums, m, segment)
               : write_byte_rows<false, false>(out, sums, m, segment);
  return true;
}
#endif

}  // namespace
HALUT_END
