// The mean of every channel of uint8 maps, scaled and rounded to uint8.
// Reference: mean_pool_reference in tests/oracles/integer.py.
#include <cstdint>

#include "../planes.h"

HALUT_BEGIN
namespace {

constexpr int64_t part = 64;  // channels whose sums stand in registers

inline uint8_t byte_of(int32_t sum, float scale, float shift) {
  float y = static_cast<float>(sum) * scale;
  y += shift;  // apart: no fused multiply-add
  y = __builtin_rintf(y);
  return static_cast<uint8_t>(y > 0.f ? (y < 255.f ? y : 255.f) : 0.f);
}

// `count` <= part channels of one image by pixel.
void mean_of_pixels(const uint8_t* __restrict x, int64_t pixels, int64_t stride, int64_t count,
                    float scale, float shift, uint8_t* __restrict out) {
  int32_t sums[part] = {};
  for (int64_t n = 0; n < pixels; n++)
    for (int64_t c = 0; c < count; c++) sums[c] += x[n * stride + c];
  for (int64_t c = 0; c < count; c++) out[c] = byte_of(sums[c], scale, shift);
}

}  // namespace

// x [B, C, pixels], or channels_last [B, pixels, C]; out [B, C].
void mean_pool(const uint8_t* x, bool channels_last, uint8_t* out, int64_t B, int64_t C, int64_t pixels,
               float scale, float shift, int threads) {
  const int64_t parts = (C + part - 1) / part;
#pragma omp parallel for num_threads(threads) if (threads > 1 && B > 1)
  for (int64_t task = 0; task < B * parts; task++) {
    const int64_t b = task / parts, c0 = task % parts * part, count = smaller(part, C - c0);
    const uint8_t* image = x + b * C * pixels;
    uint8_t* to = out + b * C + c0;
    if (channels_last) {
      mean_of_pixels(image + c0, pixels, C, count, scale, shift, to);
      continue;
    }
    for (int64_t c = 0; c < count; c++) {
      int32_t sum = 0;
      const uint8_t* plane = image + (c0 + c) * pixels;
      for (int64_t n = 0; n < pixels; n++) sum += plane[n];
      to[c] = byte_of(sum, scale, shift);
    }
  }
}

HALUT_END
