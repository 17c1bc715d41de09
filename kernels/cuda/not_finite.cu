// NaN answers for inputs that are NaN or infinite: y[n, g, :] = NaN where a column of row n in group
// g has all exponent bits set. Reference: marked in halut/ops/core/finite.py.
//
// Two kernels: the first looks at x once, in the order of its memory, and leaves a flag per block;
// the second ends at once where no flag is set, which is nearly always.
#include "device.cuh"

namespace {

constexpr int threads = 256;

// True if one of the values in a word, of 4 bytes or twice 2, has all exponent bits set.
template <u32 EXPONENT, bool HALVES>
DEVICE bool spoiled(u32 word) {
  const u32 low = HALVES ? EXPONENT << 16 : EXPONENT;
  return (word & low) == low || (HALVES && (word & EXPONENT) == EXPONENT);
}

// flags [blocks]: whether x [count], dense, holds NaN or an infinity in the block's share.
template <class X, u32 EXPONENT>
DEVICE void look(const void* x, i64 count, u32* flags, i64 blocks) {
  constexpr bool halves = sizeof(typename X::Raw) == 2;
  constexpr int per = halves ? 2 : 1;
  SHARED(u32, found, 1);
  if (threadIdx.x == 0) found[0] = 0;
  __syncthreads();
  const u64 address = reinterpret_cast<u64>(x);
  const u16* small = static_cast<const u16*>(x);
  const i64 step = blocks * threads, first = static_cast<i64>(blockIdx.x) * threads + threadIdx.x;
  bool any = false;
  i64 done = 0;  // values read by whole quadruples of words
  if (address % 16 == 0) {
    const uint4* fours = static_cast<const uint4*>(x);
    const i64 n = count / (4 * per);
    for (i64 i = first; i < n; i += step) {
      const uint4 v = fours[i];
      any |= spoiled<EXPONENT, halves>(v.x) || spoiled<EXPONENT, halves>(v.y) ||
             spoiled<EXPONENT, halves>(v.z) || spoiled<EXPONENT, halves>(v.w);
    }
    done = n * 4 * per;
  }
  for (i64 i = done + first; i < count; i += step) {
    any |= halves ? spoiled<EXPONENT, true>(small[i])
                  : spoiled<EXPONENT, false>(static_cast<const u32*>(x)[i]);
  }
  if (any) atomicAdd(found, 1u);
  __syncthreads();
  if (threadIdx.x == 0) flags[blockIdx.x] = found[0] != 0;
}

// A warp for every row and group, `warps` in all. y: rows [N, G * M], or with plane > 0 maps
// [N / plane, G * M, plane].
template <class X>
DEVICE void mark(const View& v, const u32* flags, i64 blocks, void* y, int dtype, i64 plane, i64 N,
                 i64 G, i64 M, i64 warps) {
  SHARED(u32, found, 1);
  if (threadIdx.x == 0) found[0] = 0;
  __syncthreads();
  u32 set = 0;
  for (i64 i = threadIdx.x; i < blocks; i += threads) set |= flags[i];
  if (set) atomicAdd(found, 1u);
  __syncthreads();
  if (found[0] == 0) return;
  const typename X::Raw* x = static_cast<const typename X::Raw*>(v.data);
  const int lane = threadIdx.x % 32;
  const i64 columns = divided(v.C * v.kh * v.kw, G);
  const i64 first = (static_cast<i64>(blockIdx.x) * threads + threadIdx.x) / 32;
  for (i64 at = first; at < N * G; at += warps) {
    const i64 n = divided(at, G), g = at - n * G;
    const Row row = row_of(v, n);
    float sum = 0.f;  // of zeros and NaN
    for (i64 t = lane; t < columns; t += 32) {
      const Tap tap = tap_of(v, g * columns + t);
      if (inside(v, row, tap)) sum += X::value(x[row.base + tap.offset]) * 0.f;
    }
    for (int other = 16; other > 0; other /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, other);
    }
    if (sum == 0.f) continue;
    const i64 b = plane ? divided(n, plane) : 0, pixel = n - b * plane;
    for (i64 m = lane; m < M; m += 32) {
      const i64 o = g * M + m;
      store_as(y, plane ? (b * G * M + o) * plane + pixel : n * G * M + o, dtype, sum);
    }
  }
}

}  // namespace

#define ENTRY(name, X, EXPONENT)                                                                \
  extern "C" __global__ void __launch_bounds__(threads)                                         \
      not_finite_look_##name(const void* x, i64 count, u32* flags, i64 blocks) {                \
    look<X, EXPONENT>(x, count, flags, blocks);                                                 \
  }                                                                                             \
  extern "C" __global__ void __launch_bounds__(threads)                                         \
      not_finite_mark_##name(const View v, const u32* flags, i64 blocks, void* y, int dtype,    \
                             i64 plane, i64 N, i64 G, i64 M, i64 warps) {                       \
    mark<X>(v, flags, blocks, y, dtype, plane, N, G, M, warps);                                 \
  }

ENTRY(f32, Float, 0x7f800000u)
ENTRY(f16, Half, 0x7c00u)
ENTRY(bf16, Bfloat, 0x7f80u)
