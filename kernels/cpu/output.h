// Where the outputs of a tile go: sums of 64 flat positions and 4 outputs, scaled and clamped.
//
// y = max(float(sum) * scale + bias + residual * residual_scale, low), every product and sum rounded;
// bytes round to the nearest even integer and saturate. The residual lies as the outputs do. Flat
// positions that hold nothing are left out: a segment is a mask of up to 16 lanes whose outputs are
// consecutive, in an output plane (by plane) or as rows.
#pragma once

#include "narrow.h"
#include "packed.h"
#include "planes.h"

HALUT_BEGIN
namespace {

struct Segment {
  uint16_t mask, kept;  // kept: as many low bits as mask has
  int32_t group;  // which 16 rows of the tile
  int64_t at;     // by plane: element of the plane (image stride included); by row: the row
};

struct Output : Target {
  int64_t channels;  // GM
  int64_t plane;     // OH * OW

  Output(const Target& to, int64_t outputs, int64_t positions)
      : Target(to), channels(outputs), plane(positions) {}

  // Whether vectors of outputs and residuals are read and written at once, where there are vectors.
  bool vectors() const { return plain(dtype) && (!residual || plain(residual_dtype)); }
  static bool plain(int64_t dtype) {
    const Dtype d = static_cast<Dtype>(dtype);
    return d == Dtype::f32 || d == Dtype::i8 || d == Dtype::u8;
  }
};

// The residual added, and clamped.
inline float finished(const Output& out, int64_t at, float value) {
  if (out.residual) value += element(out.residual, out.residual_dtype, at) * out.residual_scale;
  return value < out.low ? out.low : value;  // NaN stays
}

inline void put(const Output& out, int64_t at, float value) {
  switch (static_cast<Dtype>(out.dtype)) {
    case Dtype::f32:
      static_cast<float*>(out.data)[at] = value;
      break;
    case Dtype::f16:
      static_cast<uint16_t*>(out.data)[at] = to_half(value);
      break;
    case Dtype::bf16:
      static_cast<uint16_t*>(out.data)[at] = to_bfloat16(value);
      break;
    case Dtype::u8:
      static_cast<uint8_t*>(out.data)[at] = to_uint8(value);
      break;
    default:
      static_cast<int8_t*>(out.data)[at] = to_int8(value);
  }
}

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
// To the nearest even integer, and within 32 bits also where y is far out of range.
inline __m512i rounded(__m512 y) {
  const __m512 limit = _mm512_set1_ps(1e6f);
  return _mm512_cvtps_epi32(
      _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), limit), _mm512_min_ps(limit, y)));
}

inline __m512 residual16(const Output& out, int64_t at, __mmask16 kept) {
  __m512 value;
  if (out.residual_dtype == static_cast<int64_t>(Dtype::f32)) {
    value = _mm512_maskz_loadu_ps(kept, static_cast<const float*>(out.residual) + at);
  } else {
    const __m128i bytes = _mm_maskz_loadu_epi8(kept, static_cast<const int8_t*>(out.residual) + at);
    const bool below = out.residual_dtype == static_cast<int64_t>(Dtype::i8);
    value = _mm512_cvtepi32_ps(below ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes));
  }
  return _mm512_mul_ps(value, _mm512_set1_ps(out.residual_scale));
}

// y before it is clamped and rounded, to the `kept` elements from `at` on.
inline void put16(const Output& out, int64_t at, __mmask16 kept, __m512 y) {
  if (out.residual) y = _mm512_add_ps(y, residual16(out, at, kept));
  y = _mm512_max_ps(_mm512_set1_ps(out.low), y);  // of two, NaN or not, the second where one is NaN
  if (out.dtype == static_cast<int64_t>(Dtype::f32)) {
    _mm512_mask_storeu_ps(static_cast<float*>(out.data) + at, kept, y);
  } else if (out.dtype == static_cast<int64_t>(Dtype::u8)) {
    const __m512i least = _mm512_max_epi32(rounded(y), _mm512_setzero_si512());
    _mm512_mask_cvtusepi32_storeu_epi8(static_cast<uint8_t*>(out.data) + at, kept, least);
  } else {
    _mm512_mask_cvtsepi32_storeu_epi8(static_cast<int8_t*>(out.data) + at, kept, rounded(y));
  }
}

// Floats or bytes by plane: the lanes of a segment move together and are stored at once.
inline void write_planes(const Output& out, const int32_t (*sums)[64], int64_t m, int count,
                         const Segment* segments, int64_t n) {
  for (int i = 0; i < count; i++) {
    const __m512 scale = _mm512_set1_ps(out.scale[m + i]), bias = _mm512_set1_ps(out.bias[m + i]);
    const int64_t plane = (m + i) * out.plane;
    for (int64_t s = 0; s < n; s++) {
      const Segment segment = segments[s];
      const __m512i sum = _mm512_loadu_si512(sums[i] + segment.group * 16);
      __m512 y = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), bias);
      if (segment.mask != 0xffff) y = _mm512_maskz_compress_ps(segment.mask, y);
      put16(out, plane + segment.at, segment.kept, y);
    }
  }
}
#endif

// Outputs m .. m + count <= 16 of one segment as rows; sums[tile of outputs][output][row].
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
inline void transpose16(__m512i* r) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // r[4 i + j], lane q: rows 4 q + j of outputs 4 i .. 4 i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = t[i];
}

inline void write_rows(const Output& out, const int32_t (*sums)[4][64], int64_t m, int count,
                       const Segment& segment) {
  const __mmask16 some = static_cast<__mmask16>((1u << count) - 1);
  const __m512 scale = _mm512_maskz_loadu_ps(some, out.scale + m);
  const __m512 bias = _mm512_maskz_loadu_ps(some, out.bias + m);
  __m512i r[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(sums[i / 4][i % 4] + segment.group * 16);
  transpose16(r);
  const bool sums_alone = out.dtype == static_cast<int64_t>(Dtype::i32);
  int64_t at = segment.at * out.channels + m;
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    const __m512 y = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(r[i]), scale), bias);
    const __mmask16 used = segment.mask >> i & 1 ? some : 0;
    if (sums_alone)
      _mm512_mask_storeu_epi32(static_cast<int32_t*>(out.data) + at, used, r[i]);
    else
      put16(out, at, used, y);
    at += segment.mask >> i & 1 ? out.channels : 0;
  }
}
#endif

// Rows of sums as they are.
inline void write_sums(const Output& out, const int32_t (*sums)[64], int64_t m, int count,
                       const Segment* segments, int64_t n) {
  for (int64_t s = 0; s < n; s++) {
    int64_t row = segments[s].at;
    for (unsigned mask = segments[s].mask; mask; mask &= mask - 1, row++) {
      const int lane = segments[s].group * 16 + __builtin_ctz(mask);
      for (int i = 0; i < count; i++)
        static_cast<int32_t*>(out.data)[row * out.channels + m + i] = sums[i][lane];
    }
  }
}

// Outputs m .. m + count <= 4 of one tile; sums[output][row].
inline void write_tile(const Output& out, const int32_t (*sums)[64], int64_t m, int count,
                       const Segment* segments, int64_t n) {
  const bool floats = out.dtype == static_cast<int64_t>(Dtype::f32);
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  if (out.contiguous && out.vectors()) return write_planes(out, sums, m, count, segments, n);
#endif
  if (out.dtype == static_cast<int64_t>(Dtype::i32))
    return write_sums(out, sums, m, count, segments, n);
  alignas(64) float y[64][4] = {};
  for (int i = 0; i < count; i++) {
    const float scale = out.scale[m + i], bias = out.bias[m + i];
    const float low = out.residual ? -__builtin_inff() : out.low;
    for (int j = 0; j < 64; j++) {
      const float value = static_cast<float>(sums[i][j]) * scale + bias;
      y[j][i] = value < low ? low : value;  // NaN stays
    }
  }
  for (int64_t s = 0; s < n; s++) {
    const Segment segment = segments[s];
    const float(*lanes)[4] = y + segment.group * 16;
    int64_t k = segment.at;
    for (unsigned mask = segment.mask; mask; mask &= mask - 1, k++) {
      const float* lane = lanes[__builtin_ctz(mask)];
      if (floats && count == 4 && !out.contiguous && !out.residual) {
        memcpy(static_cast<float*>(out.data) + k * out.channels + m, lane, 4 * sizeof(float));
        continue;
      }
      for (int i = 0; i < count; i++) {
        const int64_t to = out.contiguous ? k + (m + i) * out.plane : k * out.channels + m + i;
        put(out, to, out.residual ? finished(out, to, lane[i]) : lane[i]);
      }
    }
  }
}

}  // namespace
HALUT_END
