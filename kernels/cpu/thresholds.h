// Thresholds as what is compared: floats as they are, or the bytes that decide as they do.
#pragma once

#include "level.h"

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
#include <immintrin.h>
#endif

#include <cstdint>

HALUT_BEGIN
namespace {

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
constexpr int downwards = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;

inline void store_cells(__m512 value, __mmask16 used, void* cells) {
  const __m512i whole = _mm512_maskz_cvttps_epi32(used, value);
  _mm_storeu_si128(static_cast<__m128i*>(cells), _mm512_cvtepi32_epi8(whole));
}

// Lanes of `used` as cells; false where one has no cell that serves.
inline bool as_cells(__m512 t, __mmask16, float* cells) {
  _mm512_storeu_ps(cells, t);
  return true;
}
// x > t where x > floor(t); never where t is NaN
inline bool as_cells(__m512 t, __mmask16 used, int8_t* cells) {
  const __m512 floor = _mm512_roundscale_ps(t, downwards);
  const __mmask16 below = _mm512_mask_cmp_ps_mask(used, floor, _mm512_set1_ps(-128.f), _CMP_LT_OQ);
  const __mmask16 serves = _mm512_cmp_ps_mask(floor, _mm512_set1_ps(127.f), _CMP_LT_OQ);
  store_cells(_mm512_mask_mov_ps(_mm512_set1_ps(127.f), serves, floor), used, cells);
  return !below;
}
// x > t where x >= floor(t) + 1
inline bool as_cells(__m512 t, __mmask16 used, uint8_t* cells) {
  const __m512 least = _mm512_add_ps(_mm512_roundscale_ps(t, downwards), _mm512_set1_ps(1.f));
  const __mmask16 serves = _mm512_cmp_ps_mask(least, _mm512_set1_ps(255.f), _CMP_LE_OQ);
  store_cells(_mm512_maskz_max_ps(serves, least, _mm512_setzero_ps()), used, cells);
  return (used & ~serves) == 0;
}
#endif

// The K - 1 thresholds of a codebook at their heap index, root at 1, in cells [16] and, as they are,
// in exact [16]. False where a cell cannot serve.
template <class Cell>
bool as_cells(const float* thresholds, int64_t K, Cell* cells, float* exact) {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  const __mmask16 used = static_cast<__mmask16>((1u << K) - 2);
  const __m512 t = _mm512_maskz_expandloadu_ps(used, thresholds);
  _mm512_storeu_ps(exact, t);
  return as_cells(t, used, cells);
#else  // these levels compare floats only
  for (int64_t k = 0; k < 16; k++) cells[k] = exact[k] = k > 0 && k < K ? thresholds[k - 1] : 0.f;
  return true;
#endif
}

}  // namespace
HALUT_END
