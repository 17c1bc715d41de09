// A run of rows of a View as padded planes of floats, channel by channel, in which every tap of a
// patch is a constant offset: pixels outside of the map are zeros, and the columns of a plane are
// split by their phase under the horizontal stride, so that neighbouring rows are neighbours in
// memory. Filled from a map of any strides and dtype; what was added to planes goes back to a map.
#pragma once

#include "elements.h"

HALUT_BEGIN
namespace {

constexpr int64_t tile_rows = 64;

inline int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows at .. at + length of a tile lie side by side, `from` floats into the plane (tap 0).
struct Run {
  int32_t at, length;
  int64_t from;
};

// Rows n0 .. n1 of the view: where their pixels lie in a plane.
struct Span {
  const View* view;
  int64_t n0, n1;
  int64_t first, last;   // images
  int64_t phase, pitch;  // floats of a phase, of a padded row of pixels
  int64_t top, bottom;   // padded rows of pixels kept: of the first image from, of the last to
  int64_t plane;         // floats of a plane; what is behind them may be overwritten
  int64_t tiles, longest;  // run
  Run* runs;             // of all tiles
  int64_t* starts;       // [tiles + 1]: the first run of each tile
  int64_t* taps;         // [kh kw]: where each position of the window lies in a plane

  int64_t reach() const { return (view->kh - 1) * view->dh + 1; }
  int64_t full() const { return (view->OH - 1) * view->sh + reach(); }
  int64_t from_row(int64_t image) const { return image == first ? top : 0; }
  int64_t to_row(int64_t image) const { return image == last ? bottom : full(); }
  // Padded row y of an image, counted over all images of the span.
  int64_t row(int64_t image, int64_t y) const {
    return image == first ? y - top : full() - top + (image - first - 1) * full() + y;
  }
  int64_t tap(int64_t position) const {
    const int64_t i = position / view->kw, x = position % view->kw * view->dw;
    return i * view->dh * pitch + x % view->sw * phase + x / view->sw;
  }
};

// Bytes a span of so many rows keeps its runs, starts and taps in.
inline int64_t span_bytes(const View& view, int64_t rows) {
  return rows * static_cast<int64_t>(sizeof(Run)) +
         (rows / tile_rows + 2 + view.kh * view.kw) * static_cast<int64_t>(sizeof(int64_t));
}

inline Span make_span(const View& view, int64_t n0, int64_t n1, void* memory) {
  Span s;
  s.view = &view, s.n0 = n0, s.n1 = n1;
  s.runs = static_cast<Run*>(memory);
  s.starts = reinterpret_cast<int64_t*>(s.runs + (n1 - n0));
  s.taps = s.starts + (n1 - n0) / tile_rows + 2;
  Run* const runs = s.runs;
  int64_t* const starts = s.starts;
  const int64_t pixels = view.OH * view.OW;
  s.first = n0 / pixels, s.last = (n1 - 1) / pixels;
  s.phase = view.OW - 1 + ((view.kw - 1) * view.dw) / view.sw + 1;
  s.pitch = s.phase * smaller_of(view.sw, (view.kw - 1) * view.dw + 1);
  s.top = n0 % pixels / view.OW * view.sh;
  s.bottom = (n1 - 1) % pixels / view.OW * view.sh + s.reach();
  s.plane = s.row(s.last, s.bottom) * s.pitch + lanes;
  for (int64_t position = 0; position < view.kh * view.kw; position++)
    s.taps[position] = s.tap(position);
  s.tiles = (n1 - n0 + tile_rows - 1) / tile_rows;
  int64_t count = 0;
  for (int64_t tile = 0; tile < s.tiles; tile++) {
    starts[tile] = count;
    const int64_t begin = n0 + tile * tile_rows, end = smaller_of(begin + tile_rows, n1);
    for (int64_t n = begin; n < end;) {
      const int64_t image = n / pixels, oy = n % pixels / view.OW, ox = n % view.OW;
      const int64_t length = smaller_of(view.OW - ox, end - n);
      const int64_t from = s.row(image, oy * view.sh) * s.pitch + ox;
      Run* const before = runs + count - 1;
      if (count > starts[tile] && before->from + before->length == from)
        before->length += static_cast<int32_t>(length);
      else
        runs[count++] = {static_cast<int32_t>(n - begin), static_cast<int32_t>(length), from};
      n += length;
    }
  }
  starts[s.tiles] = count;
  s.longest = 0;
  for (int64_t run = 0; run < count; run++) s.longest = larger_of(s.longest, runs[run].length);
  return s;
}

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
