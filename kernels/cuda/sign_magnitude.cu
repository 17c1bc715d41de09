// y[n, g, m] = sum_d +-|x[n, g, d]| |w[g, m, d]|, int32, the sign that of x times w.
// Reference: sign_magnitude_reference in tests/oracles/integer.py.
//
// Unsigned products alone: P of all magnitudes, Q of those whose product is negative; y = P - 2 Q.
// Four bytes at a time by dp4a; the negative ones are chosen by masks of whole bytes, made once when
// a tile is read: |w| & (minus x ^ minus w). Sums wrap modulo 2^32, and come out right where y fits.
#include "device.cuh"

namespace {

constexpr int tile = 64;    // rows, and outputs, of a block of 16 x 16 threads
constexpr int words = 8;    // of four inputs each, in shared memory at a time
constexpr int stride = 65;  // of a word's line: neighbors in different banks
constexpr int each = 4;     // rows, and outputs, of a thread, 16 apart

// Four neighboring bytes from `from`, `left` of them to be had; zeros behind.
DEVICE u32 four(const u8* from, i64 left, bool aligned) {
  if (aligned && left >= 4) return *reinterpret_cast<const u32*>(from);
  u32 found = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (i < left) found |= static_cast<u32>(from[i]) << (8 * i);
  }
  return found;
}

// 0xff for every negative byte.
DEVICE u32 minus_of(u32 bytes) { return ((bytes >> 7) & 0x01010101u) * 0xffu; }

// |b| of every byte, 128 of -128: (b ^ minus) + (minus & 1), which does not carry, as b ^ minus < 128.
DEVICE u32 size_of(u32 bytes, u32 minus) { return (bytes ^ minus) + (minus & 0x01010101u); }

}  // namespace

// x [N, G, D], weight [G, M, D], out [N, G, M]; `run` inputs of a block, those of the splits of D.
// atomic: out is zero before, and splits add to it, integers in any order.
extern "C" __global__ void __launch_bounds__(256, 2)
    sign_magnitude(const u8* x, const u8* weight, u32* out, i64 N, i64 G, i64 M, i64 D, i64 run,
                   int aligned, int atomic) {
  SHARED(u32, x_size, words * stride);
  SHARED(u32, x_minus, words * stride);
  SHARED(u32, w_size, words * stride);
  SHARED(u32, w_minus, words * stride);
  const i64 row_tiles = (N + tile - 1) / tile, output_tiles = (M + tile - 1) / tile;
  i64 at = blockIdx.x;
  const i64 m0 = (at - divided(at, output_tiles) * output_tiles) * tile;
  at = divided(at, output_tiles);
  const i64 n0 = (at - divided(at, row_tiles) * row_tiles) * tile;
  at = divided(at, row_tiles);
  const i64 split = divided(at, G), g = at - split * G;
  const i64 end = (split + 1) * run < D ? (split + 1) * run : D;
  const int tid = threadIdx.x, across = tid % 16, down = tid / 16;

  u32 all[each][each], negative[each][each];
#pragma unroll
  for (int i = 0; i < each; i++) {
#pragma unroll
    for (int j = 0; j < each; j++) all[i][j] = negative[i][j] = 0;
  }
  for (i64 d0 = split * run; d0 < end; d0 += 4 * words) {
    __syncthreads();
    for (int i = tid; i < tile * words; i += 256) {
      const int line = i / words, word = i % words;
      const i64 d = d0 + 4 * word, n = n0 + line, m = m0 + line;
      const u32 a = n < N && d < end ? four(x + (n * G + g) * D + d, end - d, aligned) : 0;
      const u32 b = m < M && d < end ? four(weight + (g * M + m) * D + d, end - d, aligned) : 0;
      x_minus[word * stride + line] = minus_of(a);
      x_size[word * stride + line] = size_of(a, minus_of(a));
      w_minus[word * stride + line] = minus_of(b);
      w_size[word * stride + line] = size_of(b, minus_of(b));
    }
    __syncthreads();
#pragma unroll
    for (int word = 0; word < words; word++) {
      u32 a[each], minus_a[each];
#pragma unroll
      for (int i = 0; i < each; i++) {
        a[i] = x_size[word * stride + down + 16 * i];
        minus_a[i] = x_minus[word * stride + down + 16 * i];
      }
#pragma unroll
      for (int j = 0; j < each; j++) {
        const u32 b = w_size[word * stride + across + 16 * j];
        const u32 minus_b = w_minus[word * stride + across + 16 * j];
#pragma unroll
        for (int i = 0; i < each; i++) {
          all[i][j] = __dp4a(a[i], b, all[i][j]);
          negative[i][j] = __dp4a(a[i], b & (minus_a[i] ^ minus_b), negative[i][j]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < each; i++) {
#pragma unroll
    for (int j = 0; j < each; j++) {
      const i64 n = n0 + down + 16 * i, m = m0 + across + 16 * j;
      if (n >= N || m >= M) continue;
      u32* to = out + (n * G + g) * M + m;
      const u32 sum = all[i][j] - 2 * negative[i][j];
      if (atomic) {
        atomicAdd(to, sum);
      } else {
        *to = sum;
      }
    }
  }
}
