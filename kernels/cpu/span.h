// Rows n0 .. n1 of a View as positions in padded planes: where each image's rows of pixels, each tap
// of a patch and each tile of 64 rows lie. The planes themselves are filled in tiles.h.
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

}  // namespace
HALUT_END
