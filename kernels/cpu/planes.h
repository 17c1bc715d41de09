// Input planes for the tree layer: what a tap reads, laid out so that every tap is one constant
// offset into a flat array of output positions.
//
// A tap at kernel row i reads input row oy * sh + i * dh - top = (oy + q) * sh + p with 0 <= p < sh:
// row oy + q of phase p of the plane; likewise along a row. One plane per (channel, phase). Rows of
// a plane lie `pitch` apart, the zeros between them serving as right border of one row and left
// border of the next; images lie `image_rows` rows apart for the same reason. A flat position is
// (image * image_rows + oy) * pitch + ox; those with ox >= OW or oy >= OH hold nothing of use.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <cstdlib>
#include <cstring>

#include "level.h"
#include "view.h"

HALUT_BEGIN
namespace {

inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, mantissa = h & 0x3ff;
  const uint32_t exponent = (h >> 10) & 31;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {
    const float small = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -small : small;
  }
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline float element(const void* data, int64_t dtype, int64_t at) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::f32:
      return static_cast<const float*>(data)[at];
    case Dtype::f16:
      return half_to_float(static_cast<const uint16_t*>(data)[at]);
    case Dtype::bf16: {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(data)[at]) << 16;
      float value;
      memcpy(&value, &bits, sizeof value);
      return value;
    }
    default:
      return static_cast<const int8_t*>(data)[at];
  }
}

// out[i] = x[at + i * stride], as float.
inline void copy_run(float* __restrict out, const View& x, int64_t at, int64_t stride, int64_t n) {
  const void* data = reinterpret_cast<const void*>(x.data);
  if (x.dtype == static_cast<int64_t>(Dtype::f32)) {
    const float* __restrict source = static_cast<const float*>(data) + at;
    if (stride == 1) {
      for (int64_t i = 0; i < n; i++) out[i] = source[i];
    } else if (stride == 2) {
      for (int64_t i = 0; i < n; i++) out[i] = source[2 * i];
    } else {
      int64_t i = 0;
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
      if (stride < (1 << 24) && stride > -(1 << 24)) {
        const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m512i offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
        for (; i + 16 <= n; i += 16)
          _mm512_storeu_ps(out + i, _mm512_i32gather_ps(offsets, source + i * stride, 4));
        for (; i + 8 <= n; i += 8)
          _mm256_storeu_ps(out + i, _mm256_i32gather_ps(source + i * stride,
                                                        _mm512_castsi512_si256(offsets), 4));
      }
#endif
      for (; i < n; i++) out[i] = source[i * stride];
    }
  } else if (x.dtype == static_cast<int64_t>(Dtype::i8) && stride == 1) {
    const int8_t* __restrict source = static_cast<const int8_t*>(data) + at;
    for (int64_t i = 0; i < n; i++) out[i] = source[i];
  } else if (x.dtype == static_cast<int64_t>(Dtype::i8)) {
    const int8_t* __restrict source = static_cast<const int8_t*>(data) + at;
    for (int64_t i = 0; i < n; i++) out[i] = source[i * stride];
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = element(data, x.dtype, at + i * stride);
  }
}

inline void copy_run(int8_t* __restrict out, const View& x, int64_t at, int64_t stride, int64_t n) {
  const int8_t* __restrict source = reinterpret_cast<const int8_t*>(x.data) + at;
  if (stride == 1) {
    memcpy(out, source, static_cast<size_t>(n));
  } else if (stride == 2) {
    for (int64_t i = 0; i < n; i++) out[i] = source[2 * i];
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = source[i * stride];
  }
}

inline void copy_row(int8_t* out, const View& x, int64_t at, int64_t stride, int64_t n,
                     int64_t pitch) {
  copy_run(out, x, at, stride, n);
  for (int64_t i = n; i < pitch; i++) out[i] = 0;
}

// One row of a plane: n inputs, then zeros up to `pitch`. May write zeros up to 15 floats further.
inline void copy_row(float* out, const View& x, int64_t at, int64_t stride, int64_t n,
                     int64_t pitch) {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  if (stride == 2 && x.dtype == static_cast<int64_t>(Dtype::f32)) {
    const float* source = reinterpret_cast<const float*>(x.data) + at;
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for (int64_t i = 0; i < pitch; i += 16) {
      const int64_t left = n - i > 16 ? 16 : n - i > 0 ? n - i : 0;  // the last one is at 2 left - 2
      const uint32_t mask = left ? (uint32_t{1} << (2 * left - 1)) - 1 : 0;
      const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), source + 2 * i);
      const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), source + 2 * i + 16);
      _mm512_storeu_ps(out + i, _mm512_permutex2var_ps(low, even, high));
    }
    return;
  }
  if (stride == 1 && x.dtype == static_cast<int64_t>(Dtype::f32)) {
    const float* source = reinterpret_cast<const float*>(x.data) + at;
    for (int64_t i = 0; i < pitch; i += 16) {
      const int64_t left = n - i;
      const __mmask16 mask =
          left >= 16 ? 0xffff : left > 0 ? static_cast<__mmask16>((1u << left) - 1) : 0;
      _mm512_storeu_ps(out + i, _mm512_maskz_loadu_ps(mask, source + i));
    }
    return;
  }
#endif
  copy_run(out, x, at, stride, n);
  for (int64_t i = n; i < pitch; i++) out[i] = 0;
}

// The flat layout of one block of output positions: whole images, or a band of rows of one.
struct Layout {
  int64_t q_top, q_bottom, q_left, q_right;  // least and greatest q of the window
  int64_t pitch, image_rows;
  int64_t before;  // cells in front of position 0

  explicit Layout(const View& x) {
    q_top = floor_div(-x.top, x.sh);
    q_left = floor_div(-x.left, x.sw);
    q_bottom = floor_div((x.kh - 1) * x.dh - x.top, x.sh);
    q_right = floor_div((x.kw - 1) * x.dw - x.left, x.sw);
    const int64_t phase_h = (x.H + x.sh - 1) / x.sh, phase_w = (x.W + x.sw - 1) / x.sw;
    pitch = larger(x.OW + larger(q_right, 0), phase_w + larger(-q_left, 0));
    image_rows = larger(x.OH + larger(q_bottom, 0), phase_h + larger(-q_top, 0));
    before = larger(-q_top, 0) * pitch + larger(-q_left, 0);
  }
};

struct Block {
  int64_t image, images;  // first image, how many
  int64_t oy, rows;       // first output row and how many (all of them if images > 1)

  int64_t flat(const Layout& l, const View& x) const {
    return ((images - 1) * l.image_rows + rows - 1) * l.pitch + x.OW;
  }
  // Cells of a plane, with room for reads of whole vectors.
  int64_t plane(const Layout& l) const {
    const int64_t all = larger((images - 1) * l.image_rows + rows + larger(l.q_bottom, 0),
                               images * l.image_rows);
    return (l.before + (all + 1) * l.pitch + 128 + 63) / 64 * 64;
  }
};

struct Tap {
  int64_t channel, py, px, offset;
};

// Taps of columns; the window's geometry is worked out once.
struct Window {
  static constexpr int64_t most = 128;
  const View& x;
  const Layout& layout;
  int64_t size;
  double inverse;
  Tap known[most];

  Window(const View& view, const Layout& l) : x(view), layout(l), size(view.kh * view.kw) {
    inverse = 1.0 / static_cast<double>(size);
    for (int64_t i = 0; i < size && i < most; i++) known[i] = find(i);
  }

  Tap find(int64_t position) const {
    const int64_t y = position / x.kw * x.dh - x.top, z = position % x.kw * x.dw - x.left;
    const int64_t qy = floor_div(y, x.sh), qx = floor_div(z, x.sw);
    return Tap{0, y - qy * x.sh, z - qx * x.sw, qy * layout.pitch + qx};
  }

  Tap operator()(int64_t column) const {
    // Exact for columns below 2^50, and many times faster than a division.
    const int64_t channel = static_cast<int64_t>((static_cast<double>(column) + 0.5) * inverse);
    const int64_t position = column - channel * size;
    Tap tap = position < most ? known[position] : find(position);
    tap.channel = channel;
    return tap;
  }
};

// Fills the plane of a tap's channel and phase; position 0 is plane[l.before]. What lies behind the
// last row is read for flat positions without meaning only, and left as it was.
template <class Cell>
void fill_plane(Cell* plane, const View& x, const Layout& l, const Block& block,
                       const Tap& tap) {
  const bool unit = x.sh == 1 && x.sw == 1;
  const int64_t phase_h = unit ? x.H : larger((x.H - tap.py + x.sh - 1) / x.sh, 0);
  const int64_t phase_w = unit ? x.W : larger((x.W - tap.px + x.sw - 1) / x.sw, 0);
  const int64_t n = smaller(phase_w, l.pitch), above = larger(-l.q_top, 0);
  const int64_t stride = x.sw * x.stride_w;
  for (int64_t i = 0; i < l.before; i++) plane[i] = 0;
  Cell* row = plane + l.before - above * l.pitch;
  for (int64_t b = 0; b < block.images; b++) {
    const bool last = b + 1 == block.images;
    const int64_t stop = last ? block.rows + larger(l.q_bottom, 0) : l.image_rows;
    const int64_t start = (block.image + b) * x.stride_b + tap.channel * x.stride_c +
                          tap.py * x.stride_h + tap.px * x.stride_w;
    for (int64_t r = b == 0 ? -above : 0; r < stop; r++, row += l.pitch) {
      const int64_t y = block.oy + r;
      const bool inside = y >= 0 && y < phase_h;
      copy_row(row, x, inside ? start + y * x.sh * x.stride_h : 0, stride, inside ? n : 0, l.pitch);
    }
  }
}

// Storage a thread keeps from call to call.
inline void* thread_storage(int slot, size_t bytes) {
  static thread_local struct Slots {
    void* data[4] = {nullptr, nullptr, nullptr, nullptr};
    size_t size[4] = {0, 0, 0, 0};
    ~Slots() {
      for (void* p : data) free(p);
    }
  } slots;
  if (slots.size[slot] < bytes) {
    free(slots.data[slot]);
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    slots.data[slot] = aligned_alloc(4096, rounded);
    slots.size[slot] = slots.data[slot] ? rounded : 0;
  }
  return slots.data[slot];
}

}  // namespace
HALUT_END
