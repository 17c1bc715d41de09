// Columns of the im2col rows of a map, and the map's gradient of them.
// Reference: conv_taps_torch and conv_taps_gradient_torch in halut/ops/lookup/conv.py.
//
// The gradient gathers: every element of the map adds up the columns that read it, which a table
// lists by kernel position and channel. It needs no atomics, and the order of its sums is fixed.
#include "device.cuh"

namespace {

constexpr int threads = 256;

// Elements are moved as bits of SIZE bytes. Neighboring threads have neighboring rows (of out
// [T, N]) if by_row, else neighboring columns (of out [N, T]).
template <class Bits>
DEVICE void conv_taps(const View& v, const i64* columns, Bits* out, i64 N, i64 T, int by_row) {
  const i64 index = static_cast<i64>(blockIdx.x) * threads + threadIdx.x;
  const i64 outer = divided(index, by_row ? N : T), inner = index - outer * (by_row ? N : T);
  const i64 n = by_row ? inner : outer, t = by_row ? outer : inner;
  if (n >= N || t >= T) return;
  const Row row = row_of(v, n);
  const Tap tap = tap_of(v, columns[t]);
  out[index] = inside(v, row, tap) ? static_cast<const Bits*>(v.data)[row.base + tap.offset] : 0;
}

// v: the map dx. order [T]: columns of grad sorted by what they read; starts [Cin * kh * kw + 1]:
// where those that read (channel, i, j) begin. grad [N, T], strides row and column.
template <class From, class To, class Sum>
DEVICE void conv_taps_gradient(const View& v, const typename From::Raw* grad, const i64* order,
                               const i64* starts, i64 row, i64 column, int channels_last) {
  i64 at = static_cast<i64>(blockIdx.x) * threads + threadIdx.x;
  if (at >= v.B * v.C * v.H * v.W) return;
  i64 channel = 0;
  if (channels_last) {
    const i64 next = divided(at, v.C);
    channel = at - next * v.C;
    at = next;
  }
  i64 next = divided(at, v.W);
  const int x = static_cast<int>(at - next * v.W);
  at = next;
  next = divided(at, v.H);
  const int y = static_cast<int>(at - next * v.H);
  at = next;
  if (!channels_last) {
    next = divided(at, v.C);
    channel = at - next * v.C;
    at = next;
  }
  const i64 b = at;
  const int sh = static_cast<int>(v.sh), sw = static_cast<int>(v.sw);
  Sum sum = 0;
  for (int i = 0; i < v.kh; i++) {
    const int above = y + static_cast<int>(v.top) - i * static_cast<int>(v.dh);
    if (above < 0 || above % sh || above / sh >= v.OH) continue;
    for (int j = 0; j < v.kw; j++) {
      const int beside = x + static_cast<int>(v.left) - j * static_cast<int>(v.dw);
      if (beside < 0 || beside % sw || beside / sw >= v.OW) continue;
      const i64 n = (b * v.OH + above / sh) * v.OW + beside / sw;
      const i64 position = (channel * v.kh + i) * v.kw + j;
      for (i64 e = starts[position]; e < starts[position + 1]; e++) {
        sum += From::value(grad[n * row + order[e] * column]);
      }
    }
  }
  typename To::Raw* dx = static_cast<typename To::Raw*>(const_cast<void*>(v.data));
  dx[b * v.stride_b + channel * v.stride_c + y * v.stride_h + x * v.stride_w] = To::raw(sum);
}

struct Double {
  typedef double Raw;
  static DEVICE double value(double raw) { return raw; }
  static DEVICE double raw(double value) { return value; }
};

}  // namespace

#define TAPS(name, Bits)                                                                       \
  extern "C" __global__ void __launch_bounds__(threads, 4)                                      \
      name(const View v, const i64* columns, Bits* out, i64 N, i64 T, int by_row) {            \
    conv_taps<Bits>(v, columns, out, N, T, by_row);                                            \
  }
#define GRADIENT(name, From, To, Sum)                                                          \
  extern "C" __global__ void __launch_bounds__(threads, 4)                                     \
      name(const View v, const From::Raw* grad, const i64* order, const i64* starts, i64 row,  \
           i64 column, int channels_last) {                                                         \
    conv_taps_gradient<From, To, Sum>(v, grad, order, starts, row, column, channels_last);          \
  }

TAPS(conv_taps_1, u8)
TAPS(conv_taps_2, u16)
TAPS(conv_taps_4, u32)
TAPS(conv_taps_8, u64)
GRADIENT(conv_taps_gradient_f32_f32, Float, Float, float)
GRADIENT(conv_taps_gradient_f16_f16, Half, Half, float)
GRADIENT(conv_taps_gradient_bf16_bf16, Bfloat, Bfloat, float)
GRADIENT(conv_taps_gradient_f64_f64, Double, Double, double)
GRADIENT(conv_taps_gradient_f32_f16, Float, Half, float)
GRADIENT(conv_taps_gradient_f32_bf16, Float, Bfloat, float)
