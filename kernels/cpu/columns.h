// Columns of a View for a run of rows, as floats: gathered into a tile whose rows are contiguous,
// and a tile's gradient added back to the map. References: conv_taps and conv_taps_gradient_torch
// in halut/ops/lookup/conv.py.
//
// Consecutive rows of one output line read the map at one stride, so a column of a run is a few
// strided copies with zeros where the window hangs over the border.
#pragma once

#include <cstdlib>

#include "planes.h"

HALUT_BEGIN
namespace {

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

inline float as_float(float value) { return value; }
inline float as_float(int8_t value) { return value; }
inline float as_float(F16 value) { return half_to_float(value.bits); }
inline float as_float(BF16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// The same rows and columns with lines as long as memory allows: a matrix, or a 1x1 window over
// planes without gaps, is one line.
inline View with_long_lines(View x) {
  const bool points = x.kh == 1 && x.kw == 1 && !x.top && !x.left;
  if (points && x.sh == 1 && x.sw == 1 && x.OH == x.H && x.OW == x.W &&
      (x.H == 1 || x.stride_h == x.W * x.stride_w)) {
    x.W = x.OW = x.H * x.W;
    x.H = x.OH = 1;
  }
  if (points && x.OH == 1 && (x.OW == 1 || (x.sw == 1 && x.stride_b == x.W * x.stride_w)) &&
      x.OW == x.W) {
    if (x.OW == 1) x.stride_w = x.stride_b, x.sw = 1;
    x.W = x.OW = x.B * x.OW;
    x.B = 1;
  }
  return x;
}

inline int64_t column_count(const View& x) { return x.C * x.kh * x.kw; }
inline int64_t channel_of(const View& x, int64_t column) { return column / (x.kh * x.kw); }

inline bool taps_fit(const View& x, const int64_t* taps, int64_t T) {
  for (int64_t t = 0; t < T; t++)
    if (taps[t] < 0 || taps[t] >= column_count(x)) return false;
  return true;
}

// What one column reads: x[at + oy sh stride_h + ox sw stride_w] of an image where lo <= ox < hi
// and oy sh + y lies within the map.
struct Column {
  int64_t at, y, lo, hi;

  Column(const View& x, int64_t column) {
    const int64_t left = column % x.kw * x.dw - x.left;
    y = column / x.kw % x.kh * x.dh - x.top;
    at = channel_of(x, column) * x.stride_c + y * x.stride_h + left * x.stride_w;
    lo = smaller(left < 0 ? (-left + x.sw - 1) / x.sw : 0, x.OW);
    hi = left < x.W ? smaller((x.W - left + x.sw - 1) / x.sw, x.OW) : 0;
    if (hi < lo) hi = lo;
  }
};

// n consecutive rows from row n0, which is output position (oy, ox) of image b.
struct Rows {
  int64_t n, b, oy, ox;

  Rows(const View& x, int64_t n0, int64_t n) : n(n), b(0), oy(0), ox(0) {
    if (n <= 0) return;
    ox = n0 % x.OW;
    oy = n0 / x.OW % x.OH;
    b = n0 / x.OW / x.OH;
  }
};

// Calls inside(i, at, length) for the runs of rows i that read the map, at stride
// x.sw * x.stride_w, and outside(i, length) for those that read zeros, in the order of rows.
template <typename Inside, typename Outside>
inline void each_run(const View& x, const Column& c, const Rows& rows, Inside inside,
                     Outside outside) {
  int64_t ox = rows.ox, oy = rows.oy, b = rows.b;
  for (int64_t i = 0; i < rows.n;) {
    const int64_t end = smaller(x.OW, ox + rows.n - i), y = oy * x.sh + c.y;
    const bool hit = y >= 0 && y < x.H;
    const int64_t first = hit ? smaller(larger(c.lo, ox), end) : end;
    const int64_t last = hit ? smaller(larger(c.hi, first), end) : end;
    if (first > ox) outside(i, first - ox);
    if (last > first)
      inside(i + first - ox,
             c.at + b * x.stride_b + oy * x.sh * x.stride_h + first * x.sw * x.stride_w,
             last - first);
    if (end > last) outside(i + last - ox, end - last);
    i += end - ox;
    ox = 0;
    if (++oy == x.OH) oy = 0, b++;
  }
}

template <typename T>
inline void gather_as(const View& x, const Column& c, const Rows& rows, float* out) {
  const T* data = reinterpret_cast<const T*>(x.data);
  const int64_t step = x.sw * x.stride_w;
  each_run(
      x, c, rows,
      [&](int64_t i, int64_t at, int64_t length) {
        const T* __restrict source = data + at;
        float* __restrict run = out + i;
        if (step == 1) {
          for (int64_t k = 0; k < length; k++) run[k] = as_float(source[k]);
        } else {
          for (int64_t k = 0; k < length; k++) run[k] = as_float(source[k * step]);
        }
      },
      [&](int64_t i, int64_t length) {
        for (int64_t k = 0; k < length; k++) out[i + k] = 0;
      });
}

// out[i] = column c of row i.
inline void gather_column(const View& x, const Column& c, const Rows& rows, float* out) {
  switch (static_cast<Dtype>(x.dtype)) {
    case Dtype::f32:
      return gather_as<float>(x, c, rows, out);
    case Dtype::f16:
      return gather_as<F16>(x, c, rows, out);
    case Dtype::bf16:
      return gather_as<BF16>(x, c, rows, out);
    default:
      return gather_as<int8_t>(x, c, rows, out);
  }
}

// The Columns of taps, from malloc; null if one is no column or memory is short.
inline Column* columns_of(const View& x, const int64_t* taps, int64_t T) {
  if (!taps_fit(x, taps, T)) return nullptr;
  Column* columns = static_cast<Column*>(malloc(sizeof(Column) * static_cast<size_t>(T)));
  for (int64_t t = 0; columns && t < T; t++) columns[t] = Column(x, taps[t]);
  return columns;
}

// Adds grad[i * stride] to what column c of row i reads of the float32 map dx.
inline void scatter_column(const View& dx, const Column& c, const Rows& rows, const float* grad,
                           int64_t stride) {
  float* data = reinterpret_cast<float*>(dx.data);
  const int64_t step = dx.sw * dx.stride_w;
  each_run(
      dx, c, rows,
      [&](int64_t i, int64_t at, int64_t length) {
        float* __restrict out = data + at;
        const float* __restrict run = grad + i * stride;
        if (step == 1 && stride == 1) {
          for (int64_t k = 0; k < length; k++) out[k] += run[k];
        } else {
          for (int64_t k = 0; k < length; k++) out[k * step] += run[k * stride];
        }
      },
      [](int64_t, int64_t) {});
}

}  // namespace
HALUT_END
