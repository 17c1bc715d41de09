// Elements of a map as floats, a vector at a time: float32, float16, bfloat16 and int8.
#pragma once

#include "arithmetic.h"
#include "view.h"

HALUT_BEGIN
namespace {

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

typedef uint16_t Shorts __attribute__((vector_size(lanes * 2)));
typedef int8_t Bytes __attribute__((vector_size(lanes)));

inline floats widened(const float* from) { return load(from); }

inline floats widened(const Half* from) {
#if defined(HALUT_AVX512)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(HALUT_IS_avx2)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Shorts narrow;
  __builtin_memcpy(&narrow, from, sizeof narrow);
  const ints bits = __builtin_convertvector(narrow, ints);
  const ints special = ((bits & 0x7c00) == 0x7c00) & 0x7f800000;
  const floats scaled = (floats)((bits & 0x7fff) << 13) * 0x1p112f;  // subnormals come out right
  return (floats)((ints)scaled | special | ((bits & 0x8000) << 16));
#endif
}

inline floats widened(const Brain* from) {
  Shorts narrow;
  __builtin_memcpy(&narrow, from, sizeof narrow);
  return (floats)(__builtin_convertvector(narrow, ints) << 16);
}

inline floats widened(const int8_t* from) {
  Bytes narrow;
  __builtin_memcpy(&narrow, from, sizeof narrow);
  return __builtin_convertvector(narrow, floats);
}

// The first `count` elements, which alone may be read; zero behind them.
template <typename T>
floats widened_part(const T* from, int64_t count) {
  if (count >= lanes) return widened(from);
  T part[lanes] = {};
  for (int64_t i = 0; i < count; i++) part[i] = from[i];
  return widened(part);
}

#if defined(HALUT_AVX512)
inline floats widened_part(const float* from, int64_t count) {
  if (count >= lanes) return load(from);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
}
#endif

inline void add_part(float* to, floats value, int64_t count) {
#if defined(HALUT_AVX512)
  const __mmask16 mask = static_cast<__mmask16>(count >= lanes ? 0xffff : (1u << count) - 1);
  _mm512_mask_storeu_ps(to, mask, _mm512_maskz_loadu_ps(mask, to) + value);
#else
  if (count >= lanes) {
    store(to, load(to) + value);
  } else {
    for (int64_t i = 0; i < count; i++) to[i] += value[i];
  }
#endif
}

// One element, widened.
template <typename T>
float widened_one(const T* from) {
  return widened_part(from, 1)[0];
}

}  // namespace
HALUT_END
