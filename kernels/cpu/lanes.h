// One vector register of floats, as wide as the level's, by the compiler's vector extension: the
// same source at every level, and no intrinsics where none pays.
#pragma once

#include <cstdint>

#include "level.h"

HALUT_BEGIN
namespace {

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
constexpr int lanes = 16;
#elif defined(HALUT_IS_avx2)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float floats __attribute__((vector_size(4 * lanes)));
typedef int32_t ints __attribute__((vector_size(4 * lanes)));

inline floats load(const float* from) {
  floats v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
inline void store(float* to, floats v) { __builtin_memcpy(to, &v, sizeof v); }
inline floats splat(float value) { return value - floats{}; }  // x - 0 is x, also for x = -0
inline float sum(floats v) {
  float total = 0;
  for (int i = 0; i < lanes; i++) total += v[i];
  return total;
}

}  // namespace
HALUT_END
