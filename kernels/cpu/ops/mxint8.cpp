// v[r, i] = codes[r, i] 2^(scales[r, i / 32] - 133), in float32, float16 or bfloat16; scale 255: NaN.
// Reference: mxint8_dequantize_reference in tests/oracles/integer.py.
//
// A float32 holds every such power, the lowest ones as subnormal numbers, and every product with a
// byte, so that the narrower answers are rounded once.
#include "../elements.h"
#include "../narrow.h"

HALUT_BEGIN

namespace {

constexpr int64_t block = 32;

inline float power_of(uint8_t scale) {
  const uint32_t e = scale;
  const uint32_t bits = e == 255 ? 0x7fc00000u : e < 7 ? 1u << (e + 16) : (e - 6) << 23;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline void put(float* to, floats value) { store(to, value); }

inline void put(Half* to, floats value) {
#if defined(HALUT_AVX512)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(value, 8));  // to the nearest
#elif defined(HALUT_IS_avx2)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(value, 8));
#else
  for (int i = 0; i < lanes; i++) to[i].bits = to_half(value[i]);
#endif
}

inline void put(Brain* to, floats value) {
  for (int i = 0; i < lanes; i++) to[i].bits = to_bfloat16(value[i]);
}

template <typename To>
void row(const int8_t* codes, const uint8_t* scales, To* out, int64_t C) {
  for (int64_t i = 0; i < C; i += block) {
    const floats scale = splat(power_of(scales[i / block]));
    const int64_t end = C - i < block ? C : i + block;
    int64_t j = i;
    for (; j + lanes <= end; j += lanes) put(out + j, widened(codes + j) * scale);
    if (j < end) {
      To part[lanes];
      put(part, widened_part(codes + j, end - j) * scale);
      __builtin_memcpy(out + j, part, static_cast<size_t>(end - j) * sizeof(To));
    }
  }
}

template <typename To>
void every_row(const int8_t* codes, const uint8_t* scales, void* out, int64_t rows, int64_t C,
               int threads) {
  const int64_t blocks = (C + block - 1) / block;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; r++)
    row(codes + r * C, scales + r * blocks, static_cast<To*>(out) + r * C, C);
}

}  // namespace

void mxint8_dequantize(const int8_t* codes, const uint8_t* scales, void* out, int64_t rows,
                       int64_t C, int64_t dtype, int threads) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::f32:
      return every_row<float>(codes, scales, out, rows, C, threads);
    case Dtype::f16:
      return every_row<Half>(codes, scales, out, rows, C, threads);
    default:
      return every_row<Brain>(codes, scales, out, rows, C, threads);
  }
}

HALUT_END
