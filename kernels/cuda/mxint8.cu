// v[r, i] = codes[r, i] 2^(scales[r, i / 32] - 133), in float32, float16 or bfloat16; scale 255: NaN.
// Reference: mxint8_dequantize_reference in tests/oracles/integer.py.
//
// A float32 holds every such power, the lowest ones as subnormal numbers, and every product with a
// byte, so that the narrower answers are rounded once.
#include "device.cuh"

namespace {

DEVICE float power_of(u32 e) {
  return __uint_as_float(e == 255 ? 0x7fc00000u : e < 7 ? 1u << (e + 16) : (e - 6) << 23);
}

template <class X, int COUNT>
struct alignas(sizeof(typename X::Raw) * COUNT) Run {
  typename X::Raw value[COUNT];
};

// COUNT neighbors of a row at a time: 4 where they lie in one block and addresses are multiples.
template <class X, int COUNT>
DEVICE void dequantize(const i8* codes, const u8* scales, typename X::Raw* out, i64 rows, i64 C) {
  const i64 runs = C / COUNT, blocks = (C + 31) / 32;
  const i64 at = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= rows * runs) return;
  const i64 r = divided(at, runs), i = (at - r * runs) * COUNT;
  const float scale = power_of(scales[r * blocks + i / 32]);
  const Run<Int8, COUNT> from = *reinterpret_cast<const Run<Int8, COUNT>*>(codes + r * C + i);
  Run<X, COUNT> to;
#pragma unroll
  for (int k = 0; k < COUNT; k++) to.value[k] = X::raw(Int8::value(from.value[k]) * scale);
  *reinterpret_cast<Run<X, COUNT>*>(out + r * C + i) = to;
}

}  // namespace

#define ENTRY(name, X, COUNT)                                                                   \
  extern "C" __global__ void __launch_bounds__(256)                                             \
      name(const i8* codes, const u8* scales, X::Raw* out, i64 rows, i64 C) {                   \
    dequantize<X, COUNT>(codes, scales, out, rows, C);                                          \
  }

ENTRY(mxint8_f32_4, Float, 4)
ENTRY(mxint8_f16_4, Half, 4)
ENTRY(mxint8_bf16_4, Bfloat, 4)
ENTRY(mxint8_f32_1, Float, 1)
ENTRY(mxint8_f16_1, Half, 1)
ENTRY(mxint8_bf16_1, Bfloat, 1)
