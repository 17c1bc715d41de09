// Floats rounded to what is stored, to the nearest and of two the even one; bytes saturate.
#pragma once

#include <cstdint>
#include <cstring>

#include "level.h"

HALUT_BEGIN
namespace {

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

inline uint8_t to_uint8(float value) {
  const float rounded = __builtin_rintf(value);
  return static_cast<uint8_t>(rounded > 255.f ? 255.f : rounded >= 0.f ? rounded : 0.f);
}

}  // namespace
HALUT_END
