// What the CUDA kernels share: element types, where an encoder's inputs lie, asynchronous copies.
//
// Nothing is included, so that NVRTC compiles the files without a toolkit. The same files compile as
// C++ against the launch shim of the tests, which defines HALUT_SHIM and the names used here.
#pragma once

typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef signed char i8;

#ifndef HALUT_SHIM
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define DEVICE __device__ __forceinline__
#define INFINITE __int_as_float(0x7f800000)

DEVICE float float_of_half(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

DEVICE u16 half_of_float(float value) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// The value itself, of which the compiler knows nothing: what depends on it is computed where it is
// used, not before a loop, where it would occupy registers.
DEVICE int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

#if __CUDA_ARCH__ >= 800
// Copies `bytes` of BYTES bytes to shared memory and fills up with zeros.
template <int BYTES>
DEVICE void copy_async(void* to, const void* from, int bytes) {
  const u32 address = static_cast<u32>(__cvta_generic_to_shared(to));
  if (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from),
                 "r"(bytes)
                 : "memory");
  }
}

DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the latest LEFT groups have arrived.
template <int LEFT>
DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
#else
#define HALUT_PLAIN_COPY
#endif
#endif  // HALUT_SHIM

#ifdef HALUT_PLAIN_COPY  // before sm_80: through registers
template <int BYTES>
DEVICE void copy_async(void* to, const void* from, int bytes) {
  for (int i = 0; i < BYTES; i++) {
    static_cast<u8*>(to)[i] = i < bytes ? static_cast<const u8*>(from)[i] : 0;
  }
}
DEVICE void copy_commit() {}
template <int LEFT>
DEVICE void copy_wait() {}
#endif

// The element types of halut/ops/cuda: sums only leave as int32, answers and residuals may be uint8.
enum Dtype { f32 = 0, f16 = 1, bf16 = 2, int8 = 3, int32 = 4, uint8 = 5 };

DEVICE float float_of_bfloat(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }

DEVICE u16 bfloat_of_float(float value) {
  const u32 bits = __float_as_uint(value);
  if (value != value) return 0x7fc0;
  return static_cast<u16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Two values as float16, the first in the low half.
DEVICE u32 halves_of_floats(float low, float high) {
#if __CUDA_ARCH__ >= 800 && !defined(HALUT_SHIM)
  u32 both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
#else
  return half_of_float(low) | static_cast<u32>(half_of_float(high)) << 16;
#endif
}

DEVICE u32 bfloats_of_floats(float low, float high) {
#if __CUDA_ARCH__ >= 800 && !defined(HALUT_SHIM)
  if (low == low && high == high) {  // of NaN, the instruction's bits are not torch's
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
  }
#endif
  return bfloat_of_float(low) | static_cast<u32>(bfloat_of_float(high)) << 16;
}

// The integer a float of at most 2^22 rounds to, ties to even, in the low bits: conversions have a
// quarter of an addition's rate.
DEVICE u32 rounded(float value) { return __float_as_uint(__fadd_rn(value, 12582912.f)); }

// The low bytes of four words.
DEVICE u32 low_bytes(u32 a, u32 b, u32 c, u32 d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

// Element types. Four values of one lie in a Four.
struct Float {
  typedef float Raw;
  typedef float4 Four;
  static DEVICE Four four(const float* v) { return make_float4(v[0], v[1], v[2], v[3]); }
  static DEVICE float value(float raw) { return raw; }
  static DEVICE float raw(float value) { return value; }
};
struct Half {
  typedef u16 Raw;
  typedef uint2 Four;
  static DEVICE Four four(const float* v) {
    return make_uint2(halves_of_floats(v[0], v[1]), halves_of_floats(v[2], v[3]));
  }
  static DEVICE float value(u16 raw) { return float_of_half(raw); }
  static DEVICE u16 raw(float value) { return half_of_float(value); }
};
struct Bfloat {
  typedef u16 Raw;
  typedef uint2 Four;
  static DEVICE Four four(const float* v) {
    return make_uint2(bfloats_of_floats(v[0], v[1]), bfloats_of_floats(v[2], v[3]));
  }
  static DEVICE float value(u16 raw) { return float_of_bfloat(raw); }
  static DEVICE u16 raw(float value) { return bfloat_of_float(value); }
};
struct Int8 {
  typedef i8 Raw;
  typedef u32 Four;
  static DEVICE float saturated(float value) { return fminf(fmaxf(value, -128.f), 127.f); }
  static DEVICE Four four(const float* v) {
    return low_bytes(rounded(saturated(v[0])), rounded(saturated(v[1])),
                     rounded(saturated(v[2])), rounded(saturated(v[3])));
  }
  static DEVICE float value(i8 raw) { return static_cast<float>(raw); }
  static DEVICE i8 raw(float value) {  // rounded to even and saturated
    return static_cast<i8>(rounded(saturated(value)));
  }
};
struct Uint8 {
  typedef u8 Raw;
  typedef u32 Four;
  static DEVICE float saturated(float value) { return fminf(fmaxf(value, 0.f), 255.f); }
  static DEVICE Four four(const float* v) {
    return low_bytes(rounded(saturated(v[0])), rounded(saturated(v[1])),
                     rounded(saturated(v[2])), rounded(saturated(v[3])));
  }
  static DEVICE float value(u8 raw) { return static_cast<float>(raw); }
  static DEVICE u8 raw(float value) {
    return static_cast<u8>(rounded(saturated(value)));
  }
};

DEVICE float load_as(const void* p, i64 i, int dtype) {
  switch (dtype) {
    case f32: return static_cast<const float*>(p)[i];
    case f16: return Half::value(static_cast<const u16*>(p)[i]);
    case bf16: return Bfloat::value(static_cast<const u16*>(p)[i]);
    case uint8: return Uint8::value(static_cast<const u8*>(p)[i]);
    default: return Int8::value(static_cast<const i8*>(p)[i]);
  }
}

DEVICE void store_as(void* p, i64 i, int dtype, float value) {
  switch (dtype) {
    case f32: static_cast<float*>(p)[i] = value; break;
    case f16: static_cast<u16*>(p)[i] = Half::raw(value); break;
    case bf16: static_cast<u16*>(p)[i] = Bfloat::raw(value); break;
    case uint8: static_cast<u8*>(p)[i] = Uint8::raw(value); break;
    default: static_cast<i8*>(p)[i] = Int8::raw(value);
  }
}

DEVICE u64 bytes_of(int dtype) { return dtype == f32 || dtype == int32 ? 4 : dtype < int8 ? 2 : 1; }

// V values from element i on, one or four of them; four are aligned to their size.
template <int V>
DEVICE void load_several(const void* p, i64 i, int dtype, float* value) {
  if (V == 1) {
    value[0] = load_as(p, i, dtype);
  } else if (dtype == f32) {
    const float4 four = *reinterpret_cast<const float4*>(static_cast<const float*>(p) + i);
    value[0] = four.x, value[1 % V] = four.y, value[2 % V] = four.z, value[3 % V] = four.w;
  } else if (dtype == f16 || dtype == bf16) {
    const uint2 four = *reinterpret_cast<const uint2*>(static_cast<const u16*>(p) + i);
#pragma unroll
    for (int v = 0; v < V; v++) {
      const u16 raw = static_cast<u16>((v < 2 ? four.x : four.y) >> (16 * (v % 2)));
      value[v] = dtype == f16 ? float_of_half(raw) : float_of_bfloat(raw);
    }
  } else {
    const u32 four = *reinterpret_cast<const u32*>(static_cast<const u8*>(p) + i);
#pragma unroll
    for (int v = 0; v < V; v++) {
      const u8 raw = static_cast<u8>(four >> (8 * v));
      value[v] = dtype == uint8 ? Uint8::value(raw) : Int8::value(static_cast<i8>(raw));
    }
  }
}

// As load_several.
template <int V>
DEVICE void store_several(void* p, i64 i, int dtype, const float* value) {
  if (V == 1) {
    store_as(p, i, dtype, value[0]);
    return;
  }
  void* at = static_cast<u8*>(p) + i * static_cast<int>(bytes_of(dtype));
  switch (dtype) {
    case f32: *static_cast<float4*>(at) = Float::four(value); break;
    case f16: *static_cast<uint2*>(at) = Half::four(value); break;
    case bf16: *static_cast<uint2*>(at) = Bfloat::four(value); break;
    case uint8: *static_cast<u32*>(at) = Uint8::four(value); break;
    default: *static_cast<u32*>(at) = Int8::four(value);
  }
}

// 64-bit division costs some hundred instructions; most numbers fit in 32 bits.
DEVICE i64 divided(i64 a, i64 b) {
  if (((a | b) >> 32) == 0) return static_cast<u32>(a) / static_cast<u32>(b);
  return a / b;
}

// f(Int<FROM>()), ..., f(Int<TO - 1>()): a loop whose counter is a constant, so that arrays it
// indexes stay in registers where bounds of inner loops depend on it.
template <int I>
struct Int {
  static constexpr int value = I;
};

template <int FROM, int TO, class F>
DEVICE void unrolled(const F& f) {
  if constexpr (FROM < TO) {
    f(Int<FROM>());
    unrolled<FROM + 1, TO>(f);
  }
}

// As kernels/cpu/view.h: rows of a matrix, or the im2col rows of a map, at any strides. Column t of
// row n = (b, oy, ox) is x[b, t / (kh kw), oy sh + i dh - top, ox sw + j dw - left] with
// i = t / kw % kh, j = t % kw, and 0 outside of the map. Strides count elements.
struct View {
  const void* data;
  i64 dtype;
  i64 B, C, H, W;
  i64 stride_b, stride_c, stride_h, stride_w;
  i64 kh, kw, sh, sw, dh, dw, left, top;
  i64 OH, OW;
};

// The window of one row, and one column of it: element `row.base + tap.offset`, if inside the map.
struct Row {
  i64 base;
  int y, x;
};
struct Tap {
  i64 offset;
  int y, x;
};

DEVICE Row row_of(const View& v, i64 n) {
  const i64 pixels = v.OH * v.OW;
  i64 b = n;
  int oy = 0, ox = 0;
  if (pixels != 1) {
    b = divided(n, pixels);
    const u32 pixel = static_cast<u32>(n - b * pixels);
    oy = static_cast<int>(pixel / static_cast<u32>(v.OW));
    ox = static_cast<int>(pixel - oy * static_cast<u32>(v.OW));
  }
  Row row;
  row.y = oy * static_cast<int>(v.sh) - static_cast<int>(v.top);
  row.x = ox * static_cast<int>(v.sw) - static_cast<int>(v.left);
  row.base = b * v.stride_b + row.y * v.stride_h + row.x * v.stride_w;
  return row;
}

// A column that does not exist stops the kernel, as torch's indexing does.
DEVICE Tap tap_of(const View& v, i64 column) {
  const i64 area = v.kh * v.kw;
  if (column < 0 || column >= v.C * area) __trap();
  const i64 channel = divided(column, area);
  const int position = static_cast<int>(column - channel * area);
  const int i = position / static_cast<int>(v.kw);
  Tap tap;
  tap.y = i * static_cast<int>(v.dh);
  tap.x = (position - i * static_cast<int>(v.kw)) * static_cast<int>(v.dw);
  tap.offset = channel * v.stride_c + tap.y * v.stride_h + tap.x * v.stride_w;
  return tap;
}

DEVICE bool inside(const View& v, const Row& row, const Tap& tap) {
  return static_cast<u32>(row.y + tap.y) < static_cast<u32>(v.H) &&
         static_cast<u32>(row.x + tap.x) < static_cast<u32>(v.W);
}
