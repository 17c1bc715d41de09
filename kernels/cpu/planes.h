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

#include "runs.h"

HALUT_BEGIN
namespace {

inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

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

  // Exact for columns below 2^50, and many times faster than a division.
  int64_t channel(int64_t column) const {
    return static_cast<int64_t>((static_cast<double>(column) + 0.5) * inverse);
  }
  int64_t offset(int64_t position) const {
    return position < most ? known[position].offset : find(position).offset;
  }

  Tap operator()(int64_t column) const {
    const int64_t c = channel(column), position = column - c * size;
    Tap tap = position < most ? known[position] : find(position);
    tap.channel = c;
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
