// Runs of elements of a map, at any stride, copied into cells: floats of any dtype, or bytes as bytes.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <cstring>

#include "level.h"
#include "view.h"

HALUT_BEGIN
namespace {

inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, mantissa = h & 0x3ff;
  const uint32_t exponent = (h >> 10) & 31;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {
    const float small = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -small : small;
  }
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline float element(const void* data, int64_t dtype, int64_t at) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::f32:
      return static_cast<const float*>(data)[at];
    case Dtype::f16:
      return half_to_float(static_cast<const uint16_t*>(data)[at]);
    case Dtype::bf16: {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(data)[at]) << 16;
      float value;
      memcpy(&value, &bits, sizeof value);
      return value;
    }
    case Dtype::u8:
      return static_cast<const uint8_t*>(data)[at];
    default:
      return static_cast<const int8_t*>(data)[at];
  }
}

template <class Byte>
void widen_run(float* __restrict out, const Byte* __restrict source, int64_t stride, int64_t n) {
  if (stride == 1) {
    for (int64_t i = 0; i < n; i++) out[i] = source[i];
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = source[i * stride];
  }
}

// out[i] = x[at + i * stride], as float.
inline void copy_run(float* __restrict out, const View& x, int64_t at, int64_t stride, int64_t n) {
  const void* data = reinterpret_cast<const void*>(x.data);
  if (x.dtype == static_cast<int64_t>(Dtype::f32)) {
    const float* __restrict source = static_cast<const float*>(data) + at;
    if (stride == 1) {
      for (int64_t i = 0; i < n; i++) out[i] = source[i];
    } else if (stride == 2) {
      for (int64_t i = 0; i < n; i++) out[i] = source[2 * i];
    } else {
      int64_t i = 0;
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
      if (stride < (1 << 24) && stride > -(1 << 24)) {
        const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m512i offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
        for (; i + 16 <= n; i += 16)
          _mm512_storeu_ps(out + i, _mm512_i32gather_ps(offsets, source + i * stride, 4));
        for (; i + 8 <= n; i += 8)
          _mm256_storeu_ps(out + i, _mm256_i32gather_ps(source + i * stride,
                                                        _mm512_castsi512_si256(offsets), 4));
      }
#endif
      for (; i < n; i++) out[i] = source[i * stride];
    }
  } else if (x.dtype == static_cast<int64_t>(Dtype::i8)) {
    widen_run(out, static_cast<const int8_t*>(data) + at, stride, n);
  } else if (x.dtype == static_cast<int64_t>(Dtype::u8)) {
    widen_run(out, static_cast<const uint8_t*>(data) + at, stride, n);
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = element(data, x.dtype, at + i * stride);
  }
}

// The same of a map of bytes, as bytes.
template <class Byte>
void copy_run(Byte* __restrict out, const View& x, int64_t at, int64_t stride, int64_t n) {
  const Byte* __restrict source = reinterpret_cast<const Byte*>(x.data) + at;
  if (stride == 1) {
    memcpy(out, source, static_cast<size_t>(n));
  } else if (stride == 2) {
    for (int64_t i = 0; i < n; i++) out[i] = source[2 * i];
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = source[i * stride];
  }
}

template <class Byte>
void copy_row(Byte* out, const View& x, int64_t at, int64_t stride, int64_t n, int64_t pitch) {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  if (stride == 2) {  // the even bytes of 64
    const Byte* source = reinterpret_cast<const Byte*>(x.data) + at;
    for (int64_t i = 0; i < pitch; i += 32) {
      const int64_t left = n - i > 32 ? 32 : n - i > 0 ? n - i : 0;  // the last is at 2 left - 2
      const uint64_t mask = left ? (uint64_t{1} << (2 * left - 1)) - 1 : 0;
      const __m512i pairs = _mm512_maskz_loadu_epi8(mask, source + 2 * i);
      const int64_t room = pitch - i;
      const __mmask32 to = room >= 32 ? ~uint32_t{0} : (uint32_t{1} << room) - 1;
      _mm256_mask_storeu_epi8(out + i, to, _mm512_cvtepi16_epi8(pairs));
    }
    return;
  }
#endif
  copy_run(out, x, at, stride, n);
  for (int64_t i = n; i < pitch; i++) out[i] = 0;
}

// One row of a plane: n inputs, then zeros up to `pitch`. May write zeros up to 15 floats further.
inline void copy_row(float* out, const View& x, int64_t at, int64_t stride, int64_t n,
                     int64_t pitch) {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  if (stride == 2 && x.dtype == static_cast<int64_t>(Dtype::f32)) {
    const float* source = reinterpret_cast<const float*>(x.data) + at;
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for (int64_t i = 0; i < pitch; i += 16) {
      const int64_t left = n - i > 16 ? 16 : n - i > 0 ? n - i : 0;  // the last one is at 2 left - 2
      const uint32_t mask = left ? (uint32_t{1} << (2 * left - 1)) - 1 : 0;
      const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), source + 2 * i);
      const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), source + 2 * i + 16);
      _mm512_storeu_ps(out + i, _mm512_permutex2var_ps(low, even, high));
    }
    return;
  }
  if (stride == 1 && x.dtype == static_cast<int64_t>(Dtype::f32)) {
    const float* source = reinterpret_cast<const float*>(x.data) + at;
    for (int64_t i = 0; i < pitch; i += 16) {
      const int64_t left = n - i;
      const __mmask16 mask =
          left >= 16 ? 0xffff : left > 0 ? static_cast<__mmask16>((1u << left) - 1) : 0;
      _mm512_storeu_ps(out + i, _mm512_maskz_loadu_ps(mask, source + i));
    }
    return;
  }
#endif
  copy_run(out, x, at, stride, n);
  for (int64_t i = n; i < pitch; i++) out[i] = 0;
}

}  // namespace
HALUT_END
