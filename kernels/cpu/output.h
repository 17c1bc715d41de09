// Where the outputs of a tile go: sums of 64 flat positions and 4 outputs, scaled and clamped.
//
// y = max(float(sum) * scale + bias, low), the product rounded before the sum; int8 rounds to the
// nearest even integer and saturates. Flat positions that hold nothing are left out: a segment is a
// mask of up to 16 lanes whose outputs are consecutive, in an output plane (by plane) or as rows.
#pragma once

#include <cmath>

#include "packed.h"
#include "planes.h"

HALUT_BEGIN
namespace {

struct Segment {
  uint16_t mask;
  uint8_t group;  // which 16 rows of the tile
  int64_t at;     // by plane: element of the plane (image stride included); by row: the row
};

struct Output {
  void* data;
  int64_t dtype;     // Dtype
  bool by_plane;     // [B, GM, OH, OW], else [rows, GM]
  int64_t channels;  // GM
  int64_t plane;     // OH * OW
  const float *scale, *bias;
  float low;
};

inline uint16_t to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00;
  if (bits >= 0x477ff000u) return sign | 0x7c00;
  if (bits < 0x38800000u) {  // subnormal: an addition rounds at the right place
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    memcpy(&bits, &magnitude, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  bits += 0xfffu + (bits >> 13 & 1);
  return static_cast<uint16_t>(sign | (bits - 0x38000000u) >> 13);
}

inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline int8_t to_int8(float value) {
  const float rounded = __builtin_rintf(value);
  return static_cast<int8_t>(rounded > 127.f ? 127.f : rounded >= -128.f ? rounded : -128.f);
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
    default:
      static_cast<int8_t*>(out.data)[at] = to_int8(value);
  }
}

// Outputs m .. m + count of one tile; sums[output][row].
inline void write_tile(const Output& out, const int32_t (*sums)[64], int64_t m, int count,
                       const Segment* segments, int64_t n) {
  alignas(64) float y[4][64];
  for (int i = 0; i < count; i++) {
    const float scale = out.scale[m + i], bias = out.bias[m + i], low = out.low;
    for (int j = 0; j < 64; j++) {
      const float value = static_cast<float>(sums[i][j]) * scale + bias;
      y[i][j] = value < low ? low : value;  // NaN stays
    }
  }
  const bool floats = out.dtype == static_cast<int64_t>(Dtype::f32);
  for (int64_t s = 0; s < n; s++) {
    const Segment segment = segments[s];
    const int start = segment.group * 16;
    if (out.by_plane) {
      for (int i = 0; i < count; i++) {
        const int64_t at = segment.at + (m + i) * out.plane;
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
        if (floats) {
          const __m512 row = _mm512_load_ps(&y[i][start]);
          float* to = static_cast<float*>(out.data) + at;
          if (segment.mask == 0xffff) {
            _mm512_storeu_ps(to, row);
          } else {
            const unsigned kept = static_cast<unsigned>(__builtin_popcount(segment.mask));
            _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << kept) - 1),
                                  _mm512_maskz_compress_ps(segment.mask, row));
          }
          continue;
        }
#endif
        int64_t k = at;
        for (int j = 0; j < 16; j++)
          if (segment.mask >> j & 1) put(out, k++, y[i][start + j]);
      }
    } else {
      int64_t row = segment.at;
      for (int j = 0; j < 16; j++) {
        if (!(segment.mask >> j & 1)) continue;
        const int64_t at = row++ * out.channels + m;
        if (floats && count == 4) {
          float* to = static_cast<float*>(out.data) + at;
          for (int i = 0; i < 4; i++) to[i] = y[i][start + j];
        } else {
          for (int i = 0; i < count; i++) put(out, at + i, y[i][start + j]);
        }
      }
    }
  }
}

}  // namespace
HALUT_END
