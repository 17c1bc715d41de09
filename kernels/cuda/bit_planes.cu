// Bit j of table[number of t with x >= thresholds[t]] for every input, packed along the inputs.
// Reference: bit_planes_reference in tests/oracles/integer.py.
//
// A thread has eight inputs of one pixel and group: a byte of every plane. Neighboring threads read
// neighboring addresses, pixels of a plane or inputs of a pixel.
#include "device.cuh"

namespace {

constexpr int threads = 256;
constexpr int most_planes = 8, most_steps = 256;

}  // namespace

// x: the map [B, G C, H, W] under a 1x1 kernel, float32; out [B, H, W, G, J, ceil(C / 8)].
extern "C" __global__ void __launch_bounds__(threads)
    bit_planes(const View x, const float* thresholds, const u8* table, u8* out, i64 T, i64 J, i64 G,
               int channels_last) {
  SHARED(float, limit, most_steps);
  SHARED(u8, code, most_steps);
  for (int t = threadIdx.x; t <= T; t += threads) {
    limit[t] = t < T ? thresholds[t] : 0.f;
    code[t] = table[t];
  }
  __syncthreads();
  const i64 C = divided(x.C, G), bytes = (C + 7) / 8, cells = G * bytes, pixels = x.B * x.H * x.W;
  const i64 index = static_cast<i64>(blockIdx.x) * threads + threadIdx.x;
  if (index >= pixels * cells) return;
  const i64 outer = divided(index, channels_last ? cells : pixels);
  const i64 inner = index - outer * (channels_last ? cells : pixels);
  const i64 n = channels_last ? outer : inner, cell = channels_last ? inner : outer;
  const i64 g = divided(cell, bytes), byte = cell - g * bytes;
  const i64 b = divided(n, x.H * x.W), p = n - b * x.H * x.W;
  const i64 row = divided(p, x.W), column = p - row * x.W;
  const float* from = static_cast<const float*>(x.data) + b * x.stride_b + row * x.stride_h +
                      column * x.stride_w + (g * C + byte * 8) * x.stride_c;
  const int count = static_cast<int>(C - byte * 8 < 8 ? C - byte * 8 : 8);
  u32 packed[most_planes];
#pragma unroll
  for (int j = 0; j < most_planes; j++) packed[j] = 0;
  for (int c = 0; c < count; c++) {
    const float value = from[c * x.stride_c];
    int passed = 0;
    for (int t = 0; t < T; t++) passed += value >= limit[t];
    const u32 found = code[passed];
#pragma unroll
    for (int j = 0; j < most_planes; j++) packed[j] |= ((found >> j) & 1) << c;
  }
  u8* to = out + (n * G + g) * J * bytes + byte;
#pragma unroll
  for (int j = 0; j < most_planes; j++) {
    if (j < J) to[j * bytes] = static_cast<u8>(packed[j]);
  }
}
