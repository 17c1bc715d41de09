// How a layer's output positions are cut into blocks, and where the positions of a block lie.
//
// Three ways, by what the input allows:
//   rows    of a matrix: position = row; a tap is copied into a column of floats.
//   direct  maps of float or byte planes under a window of stride 1: position = pixel of the plane,
//           16 at a time; a tap is the plane itself at an offset, read under a mask of what lies
//           inside. Maps by pixel (channels_last) are transposed into planes, block by block.
//   planes  any other map: planes with a border of zeros are made first (planes.h).
#pragma once

#include "output.h"
#include "planes.h"

HALUT_BEGIN
namespace {

enum class Way { rows, direct, planes };

// A map whose channels are neighbors, and its pixels one after the other.
inline bool is_channels_last(const View& x) {
  return x.stride_c == 1 && x.C > 1 && x.stride_w == x.C && x.stride_h == x.C * x.W;
}

inline Way way_of(const View& x) {
  if (x.H == 1 && x.W == 1 && x.kh == 1 && x.kw == 1 && x.OH == 1 && x.OW == 1) return Way::rows;
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  const bool dense = (x.stride_w == 1 && x.stride_h == x.W) || is_channels_last(x);
  if (Output::plain(x.dtype) && dense && x.sh == 1 && x.sw == 1 && x.OW <= x.W) return Way::direct;
#endif
  return Way::planes;
}

// Positions of a block: that of (image, row, ox) is image * image_flat + row * pitch + ox.
struct Grid {
  Way way;
  int64_t pitch, image_flat, groups;  // groups of 16 positions, in whole lines of codes

  Grid(Way chosen, const View& x, const Layout& l, const Block& block) : way(chosen) {
    const int64_t unit = code_rows / 16;
    int64_t flat = block.images;
    pitch = image_flat = 1;
    if (way == Way::direct) {
      pitch = x.W;
      const int64_t one = (block.rows - 1) * pitch + x.OW;
      image_flat = (one + code_rows - 1) / code_rows * code_rows;
      flat = block.images * image_flat;
    } else if (way == Way::planes) {
      pitch = l.pitch;
      image_flat = l.image_rows * l.pitch;
      flat = block.flat(l, x);
    }
    groups = ((flat + 15) / 16 + unit - 1) / unit * unit;
  }

  int64_t tiles() const { return (groups + 3) / 4; }
};

struct Cut {
  int64_t images, rows, per_image, count;  // images of a block, or output rows of a band of one
};

// Blocks whose codes, `bytes` a position, take about 256 KiB, and one or more for each thread where
// there are positions enough: what a thread encodes it also looks up, nothing goes from core to core.
inline Cut cut_blocks(Way way, const View& x, const Layout& l, int64_t bytes, int threads) {
  constexpr int64_t least = 256;  // positions that a table is read for
  int64_t target = smaller(larger((int64_t{1} << 18) / bytes / 64 * 64, 64), 4096);
  const int64_t pitch = way == Way::rows ? 1 : way == Way::direct ? x.W : l.pitch;
  const int64_t rows = way == Way::rows ? 1 : way == Way::direct ? x.OH : l.image_rows;
  const int64_t image = rows * pitch;  // positions
  const int64_t share = x.B * image / threads;
  if (threads > 1 && share >= least) target = smaller(target, (share + 63) / 64 * 64);
  Cut cut{larger(target / image, 1), x.OH, 1, 0};
  if (way != Way::rows && image > target + target / 2) {
    const int64_t most = larger(target / pitch, 1), bands = (x.OH + most - 1) / most;
    cut.rows = (x.OH + bands - 1) / bands;  // bands of one height
    cut.per_image = (x.OH + cut.rows - 1) / cut.rows;
  }
  cut.count = (x.B + cut.images - 1) / cut.images * cut.per_image;
  return cut;
}

inline Block block_of(const Cut& cut, const View& x, int64_t i) {
  Block block;
  block.image = i / cut.per_image * cut.images;
  block.images = smaller(cut.images, x.B - block.image);
  block.oy = i % cut.per_image * cut.rows;
  block.rows = smaller(cut.rows, x.OH - block.oy);
  return block;
}

// The segments of a block's tiles in the order of their positions, and where each tile's begin.
struct Segments {
  const Output& out;
  Segment* all;
  int64_t* begin;  // of each tile, and one more
  int64_t n = 0, tile = 0, image = -1;

  // `count` positions from `flat` on have outputs from `at` on.
  void add(int64_t flat, int64_t count, int64_t at, int64_t of_image) {
    for (int64_t i = 0; i < count;) {
      const int64_t group = (flat + i) / 16, lane = (flat + i) % 16;
      while (tile <= group / 4) begin[tile++] = n;
      const int64_t lanes = smaller(16 - lane, count - i);
      // Planes of two images are apart; rows of two images are neighbors.
      const bool join = n > begin[tile - 1] && all[n - 1].group == group % 4 &&
                        (!out.contiguous || image == of_image);
      if (!join) all[n++] = Segment{0, 0, static_cast<int32_t>(group % 4), at + i};
      Segment& s = all[n - 1];
      s.mask = static_cast<uint16_t>(s.mask | ((1u << lanes) - 1) << lane);
      s.kept = static_cast<uint16_t>((1u << __builtin_popcount(s.mask)) - 1);
      image = of_image;
      i += lanes;
    }
  }

  void find(const View& x, const Grid& grid, const Block& block) {
    if (grid.way == Way::rows) {
      find_rows(block.image, block.images);
    } else {
      const int64_t stride = out.contiguous ? out.channels * out.plane : x.OH * x.OW;
      const bool whole = grid.pitch == x.OW;  // an image's rows are one run
      const int64_t rows = whole ? 1 : block.rows, run = whole ? block.rows * x.OW : x.OW;
      for (int64_t b = 0; b < block.images; b++)
        for (int64_t r = 0; r < rows; r++)
          add(b * grid.image_flat + r * grid.pitch, run,
              (block.image + b) * stride + (block.oy + r) * x.OW, b);
    }
    while (tile <= grid.tiles()) begin[tile++] = n;
  }

  // Rows are positions of images one after the other, out.plane of each.
  void find_rows(int64_t first, int64_t count) {
    if (!out.contiguous) return add(0, count, first, 0);
    for (int64_t i = 0; i < count;) {
      const int64_t of_image = (first + i) / out.plane, at = (first + i) % out.plane;
      const int64_t run = smaller(out.plane - at, count - i);
      add(i, run, of_image * out.channels * out.plane + at, of_image);
      i += run;
    }
  }
};

// Way direct: for every position of the window, which pixels of an image's groups lie inside.
struct Inside {
  uint16_t* masks;  // [kh * kw][stride], one per group of 16 pixels
  int64_t stride;   // groups of an image, filled up to a multiple of 4 with empty ones

  static int64_t stride_of(const Grid& grid) { return (grid.image_flat / 16 + 3) / 4 * 4; }

  void find(const View& x, const Grid& grid, const Block& block) {
    stride = stride_of(grid);
    for (int64_t i = 0; i < x.kh * x.kw * stride; i++) masks[i] = 0;
    for (int64_t i = 0; i < x.kh * x.kw; i++) {
      const int64_t qy = i / x.kw * x.dh - x.top, qx = i % x.kw * x.dw - x.left;
      const int64_t from = larger(0, -qx), to = smaller(x.OW, x.W - qx);
      for (int64_t r = 0; r < block.rows; r++) {
        const int64_t y = block.oy + r + qy;
        if (y >= 0 && y < x.H) set(masks + i * stride, r * grid.pitch + from, r * grid.pitch + to);
      }
    }
  }

  static void set(uint16_t* masks, int64_t from, int64_t to) {
    while (from < to) {
      const int64_t lane = from % 16, lanes = smaller(16 - lane, to - from);
      masks[from / 16] = static_cast<uint16_t>(masks[from / 16] | ((1u << lanes) - 1) << lane);
      from += lanes;
    }
  }
};

}  // namespace
HALUT_END
