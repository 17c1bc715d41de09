// What the language's own operators on vectors (lanes.h) leave out. Every function is the same
// arithmetic lane by lane at every level, but for multiply_add and what uses it.
#pragma once

#include "lanes.h"

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
#define HALUT_AVX512 1
#endif
#if defined(HALUT_AVX512) || defined(HALUT_IS_avx2)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own header, in what starts undefined
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

HALUT_BEGIN
namespace {

inline floats magnitude(floats a) { return (floats)((ints)a & 0x7fffffff); }

// The larger one; b if either is NaN.
inline floats larger(floats a, floats b) {
#if defined(HALUT_AVX512)
  return _mm512_max_ps(a, b);
#elif defined(HALUT_IS_avx2)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// a * b + c, rounded once where the level can and twice where it cannot.
inline floats multiply_add(floats a, floats b, floats c) {
#if defined(HALUT_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(HALUT_IS_avx2)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// a * b + c, rounded once. Slow on an x86 without FMA.
inline floats fused(floats a, floats b, floats c) {
#if defined(HALUT_AVX512) || defined(HALUT_IS_avx2)
  return multiply_add(a, b, c);
#else
  for (int i = 0; i < lanes; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

// e^x for x <= 0, to 2 units in the last place; what is below e^-86 is e^-86.
inline floats exp_of_negative(floats x) {
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  x = larger(splat(-86.0f), x);
  const floats shifted = multiply_add(x, splat(1.44269504f), splat(round));
  const floats n = shifted - round;
  floats r = multiply_add(n, splat(-0.693145752f), x);
  r = multiply_add(n, splat(-1.42860677e-6f), r);
  floats sum = splat(1.0f / 720);
  sum = multiply_add(sum, r, splat(1.0f / 120));
  sum = multiply_add(sum, r, splat(1.0f / 24));
  sum = multiply_add(sum, r, splat(1.0f / 6));
  sum = multiply_add(sum, r, splat(0.5f));
  sum = multiply_add(sum, r, splat(1.0f));
  sum = multiply_add(sum, r, splat(1.0f));
  return (floats)((ints)sum + ((ints)shifted << 23));
}

// rows[i][j] -> rows[j][i], by log2(lanes) perfect shuffles.
inline void transpose(floats rows[lanes]) {
  ints low, high;
  for (int i = 0; i < lanes; i++) {
    low[i] = i / 2 + (i % 2) * lanes;
    high[i] = low[i] + lanes / 2;
  }
#pragma GCC unroll 4
  for (int step = 1; step < lanes; step *= 2) {
    floats out[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes / 2; i++) {
      out[2 * i] = __builtin_shuffle(rows[i], rows[i + lanes / 2], low);
      out[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + lanes / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++) rows[i] = out[i];
  }
}

}  // namespace
HALUT_END
