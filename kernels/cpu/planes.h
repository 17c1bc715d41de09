// Input planes for the tree layer: what a tap reads, laid out so that every tap is one constant
// offset into a flat array of output positions.
//
// A tap at kernel row i reads input row oy * sh + i * dh - top = (oy + q) * sh + p with 0 <= p < sh:
// row oy + q of phase p of the plane; likewise along a row. One plane per (channel, phase). Rows of
// a plane lie `pitch` apart, the zeros between them serving as right border of one row and left
// border of the next; images lie `image_rows` rows apart for the same reason. A flat position is
// (image * image_rows + oy) * pitch + ox; those with ox >= OW or oy >= OH hold nothing of use.
#pragma once

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
      for (int64_t i = 0; i < n; i++) out[i] = source[i * stride];
    }
  } else if (x.dtype == static_cast<int64_t>(Dtype::i8) && stride == 1) {
    const int8_t* __restrict source = static_cast<const int8_t*>(data) + at;
    for (int64_t i = 0; i < n; i++) out[i] = source[i];
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = element(data, x.dtype, at + i * stride);
  }
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
  // Floats of a plane, with room for reads of whole vectors.
  int64_t plane(const Layout& l) const {
    const int64_t all = larger((images - 1) * l.image_rows + rows + larger(l.q_bottom, 0),
                               images * l.image_rows);
    return (l.before + (all + 1) * l.pitch + 128 + 15) / 16 * 16;
  }
};

struct Tap {
  int64_t channel, py, px, offset;

  Tap(const View& x, const Layout& l, int64_t column) {
    const int64_t window = x.kh * x.kw;
    channel = column / window;
    const int64_t y = column / x.kw % x.kh * x.dh - x.top, z = column % x.kw * x.dw - x.left;
    const int64_t qy = floor_div(y, x.sh), qx = floor_div(z, x.sw);
    py = y - qy * x.sh;
    px = z - qx * x.sw;
    offset = qy * l.pitch + qx;
  }
};

// Fills the plane of a tap's channel and phase; position 0 is plane[l.before].
inline void fill_plane(float* plane, const View& x, const Layout& l, const Block& block,
                       const Tap& tap) {
  const int64_t phase_h = larger((x.H - tap.py + x.sh - 1) / x.sh, 0);
  const int64_t phase_w = larger((x.W - tap.px + x.sw - 1) / x.sw, 0);
  const int64_t n = smaller(phase_w, l.pitch);
  memset(plane, 0, sizeof(float) * static_cast<size_t>(l.before));
  float* row = plane + l.before - larger(-l.q_top, 0) * l.pitch;
  float* end = plane + block.plane(l);
  for (int64_t b = 0; b < block.images; b++) {
    const bool last = b + 1 == block.images;
    int64_t r = b == 0 ? -larger(-l.q_top, 0) : 0;
    const int64_t stop = last ? block.rows + larger(l.q_bottom, 0) : l.image_rows;
    for (; r < stop; r++, row += l.pitch) {
      const int64_t y = block.oy + r;
      if (y < 0 || y >= phase_h) {
        memset(row, 0, sizeof(float) * static_cast<size_t>(l.pitch));
        continue;
      }
      const int64_t at = (block.image + b) * x.stride_b + tap.channel * x.stride_c +
                         (y * x.sh + tap.py) * x.stride_h + tap.px * x.stride_w;
      copy_run(row, x, at, x.sw * x.stride_w, n);
      for (int64_t i = n; i < l.pitch; i++) row[i] = 0;
    }
  }
  if (row < end) memset(row, 0, sizeof(float) * static_cast<size_t>(end - row));
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
