// A run of rows of a View as padded planes of floats, channel by channel, in which every tap of a
// patch is a constant offset: pixels outside of the map are zeros, and the columns of a plane are
// split by their phase under the horizontal stride, so that neighboring rows are neighbors in
// memory. Filled from a map of any strides and dtype; what was added to planes goes back to a map.
#pragma once

#include "span.h"

HALUT_BEGIN
namespace {

// count pixels, `step` elements apart, of `channels` channels into planes `plane` floats apart.
template <typename T>
void fill_pixels(const T* map, int64_t step, int64_t stride_c, int64_t count, int64_t channels,
                 float* out, int64_t plane) {
  if (step == 1 || count == 1) {
    for (int64_t c = 0; c < channels; c++)
      for (int64_t x = 0; x < count; x += lanes)
        store(out + c * plane + x, widened_part(map + c * stride_c + x, count - x));
    return;
  }
  if (stride_c == 1) {
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t high = smaller_of(channels - c, lanes);
      int64_t x = 0;
      if (high == lanes)
        for (; x + lanes <= count; x += lanes) {
          floats block[lanes];
#pragma GCC unroll 16
          for (int64_t i = 0; i < lanes; i++) block[i] = widened(map + (x + i) * step + c);
          transpose(block);
#pragma GCC unroll 16
          for (int64_t i = 0; i < lanes; i++) store(out + (c + i) * plane + x, block[i]);
        }
      for (; x < count; x += lanes) {
        floats block[lanes] = {};
        for (int64_t i = 0; i < smaller_of(count - x, lanes); i++)
          block[i] = widened_part(map + (x + i) * step + c, high);
        transpose(block);
        for (int64_t i = 0; i < high; i++) store(out + (c + i) * plane + x, block[i]);
      }
    }
    return;
  }
  for (int64_t c = 0; c < channels; c++)
    for (int64_t x = 0; x < count; x++)
      out[c * plane + x] = widened_one(map + c * stride_c + x * step);
}

inline void add_pixels(float* map, int64_t step, int64_t stride_c, int64_t count, int64_t channels,
                       const float* from, int64_t plane) {
  if (step == 1 || count == 1) {
    for (int64_t c = 0; c < channels; c++)
      for (int64_t x = 0; x < count; x += lanes)
        add_part(map + c * stride_c + x, load(from + c * plane + x), count - x);
    return;
  }
  if (stride_c == 1) {
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t high = smaller_of(channels - c, lanes);
      for (int64_t x = 0; x < count; x += lanes) {
        floats block[lanes] = {};
        for (int64_t i = 0; i < high; i++) block[i] = load(from + (c + i) * plane + x);
        transpose(block);
        for (int64_t i = 0; i < smaller_of(count - x, lanes); i++)
          add_part(map + (x + i) * step + c, block[i], high);
      }
    }
    return;
  }
  for (int64_t c = 0; c < channels; c++)
    for (int64_t x = 0; x < count; x++)
      map[c * stride_c + x * step] += from[c * plane + x];
}

inline void zero_pixels(int64_t count, int64_t channels, float* out, int64_t plane) {
  for (int64_t c = 0; c < channels; c++)
    for (int64_t x = 0; x < count; x += lanes) store(out + c * plane + x, floats{});
}

// Calls visit(pixels' offset in the map, their step, their number, their offset in a plane) for
// what lies in the map, and border(offset, number) for what does not, in ascending order: they may
// write whole vectors, what is behind their pixels comes later or is nothing.
template <typename Visit, typename Border>
void each_part(const Span& s, Visit visit, Border border) {
  const View& v = *s.view;
  if (s.pitch == 1 && s.full() == 1 && v.H == 1 && v.W == 1 && !v.top && !v.left) {
    visit(s.first * v.stride_b, v.stride_b, s.last - s.first + 1, 0);
    return;
  }
  for (int64_t image = s.first; image <= s.last; image++) {
    for (int64_t y = s.from_row(image); y < s.to_row(image); y++) {
      int64_t at = s.row(image, y) * s.pitch;
      if (y < v.top || y - v.top >= v.H) {
        border(at, s.pitch);
        continue;
      }
      const int64_t line = image * v.stride_b + (y - v.top) * v.stride_h;
      for (int64_t f = 0; f < s.pitch / s.phase; f++, at += s.phase) {
        // Pixel q of the phase is x = q sw + f - left of the map.
        const int64_t low = larger_of(0, (v.left - f + v.sw - 1) / v.sw);
        const int64_t high = smaller_of(s.phase, (v.W - 1 + v.left - f + v.sw) / v.sw);
        if (low >= high) {
          border(at, s.phase);
          continue;
        }
        if (low) border(at, low);
        visit(line + (low * v.sw + f - v.left) * v.stride_w, v.sw * v.stride_w, high - low,
              at + low);
        if (high < s.phase) border(at + high, s.phase - high);
      }
    }
  }
}

template <typename T>
void fill_planes_of(const Span& s, int64_t c0, int64_t c1, float* planes) {
  const View& v = *s.view;
  const T* map = reinterpret_cast<const T*>(v.data) + c0 * v.stride_c;
  each_part(
      s,
      [&](int64_t from, int64_t step, int64_t count, int64_t at) {
        fill_pixels(map + from, step, v.stride_c, count, c1 - c0, planes + at, s.plane);
      },
      [&](int64_t at, int64_t count) { zero_pixels(count, c1 - c0, planes + at, s.plane); });
}

// Channels c0 .. c1 of the span into planes [c1 - c0][s.plane].
inline void fill_planes(const Span& s, int64_t c0, int64_t c1, float* planes) {
  switch (static_cast<Dtype>(s.view->dtype)) {
    case Dtype::f32: return fill_planes_of<float>(s, c0, c1, planes);
    case Dtype::f16: return fill_planes_of<Half>(s, c0, c1, planes);
    case Dtype::bf16: return fill_planes_of<Brain>(s, c0, c1, planes);
    default: return fill_planes_of<int8_t>(s, c0, c1, planes);
  }
}

// Adds planes to channels c0 .. c1 of the float map `data` of the span's strides.
inline void add_planes(const Span& s, int64_t c0, int64_t c1, const float* planes) {
  const View& v = *s.view;
  float* map = reinterpret_cast<float*>(v.data) + c0 * v.stride_c;
  each_part(
      s,
      [&](int64_t from, int64_t step, int64_t count, int64_t at) {
        add_pixels(map + from, step, v.stride_c, count, c1 - c0, planes + at, s.plane);
      },
      [](int64_t, int64_t) {});
}

// A column of a tile, less `origin`, into out [tile_rows + lanes]; floats behind the tile's rows
// are written too. Short runs go in pieces of 4 or 8 floats: whole vectors would overlap, and a
// processor waits where it loads what two stores wrote.
template <int piece>
void read_pieces(const Span& s, int64_t tile, const float* plane, float origin, float* out) {
  typedef float Piece __attribute__((vector_size(piece * 4)));
  const Run* const end = s.runs + s.starts[tile + 1];
  for (const Run* run = s.runs + s.starts[tile]; run < end; run++)
    for (int64_t i = 0; i < run->length; i += piece) {
      Piece value;
      __builtin_memcpy(&value, plane + run->from + i, sizeof value);
      value -= origin;
      __builtin_memcpy(out + run->at + i, &value, sizeof value);
    }
}

inline void read_column(const Span& s, int64_t tile, const float* plane, float origin, float* out) {
  if (s.longest <= 4) return read_pieces<4>(s, tile, plane, origin, out);
  if (lanes > 8 && s.longest <= 8) return read_pieces<8>(s, tile, plane, origin, out);
  read_pieces<lanes>(s, tile, plane, origin, out);
}

// Adds a column of a tile to its plane.
inline void add_column(const Span& s, int64_t tile, const float* column, float* plane) {
  const Run* const end = s.runs + s.starts[tile + 1];
  for (const Run* run = s.runs + s.starts[tile]; run < end; run++)
    for (int64_t i = 0; i < run->length; i += lanes)
      add_part(plane + run->from + i, load(column + run->at + i), run->length - i);
}

}  // namespace
HALUT_END
