// A whole layer at inference: hash-tree codes straight from the input, look-up, exact integer sums,
// scale, bias and clamp. K in {2, 4, 8, 16}, int8 tables.
// Reference: tree_layer_reference in tests/oracles/layer.py.
#include "../layer_run.h"
#include "../thresholds.h"
#include "../tree_codes.h"

HALUT_BEGIN
namespace {

// Copies of what the taps of one line read; equal ones are made once.
template <class Cell>
struct Copies {
  const Problem& p;
  const Window& window;
  const Work& work;
  Cell* storage;
  int64_t size, keys[16];
  int count = 0;

  const Cell* find(int64_t column) {
    const bool rows = p.way == Way::rows;
    const Tap tap = rows ? Tap{column, 0, 0, 0} : window(column);
    const int64_t key = (tap.channel * p.x.sh + tap.py) * p.x.sw + tap.px;
    int i = 0;
    while (i < count && keys[i] != key) i++;
    Cell* plane = storage + i * size;
    if (i == count) {
      keys[count++] = key;
      if (!rows) fill_plane(plane, p.x, p.layout, work.block, tap);
    }
    return rows ? plane : plane + p.layout.before + tap.offset;
  }

  // Columns of a matrix, 8 rows at a time: a row's cache lines serve all of them, and with strides
  // of whole pages 8 lines still fit the ways of one set.
  void fill_columns() {
    const int64_t first = work.block.image, n = work.block.images;
    for (int64_t row = 0; row < n; row += 8)
      for (int i = 0; i < count; i++) {
        const int64_t at = (first + row) * p.x.stride_b + keys[i] * p.x.stride_c;
        copy_run(storage + i * size + row, p.x, at, p.x.stride_b, smaller(8, n - row));
      }
  }
};

// Codes of one line of codebooks a task; Cell: what is compared.
template <class Cell>
struct TreeEncoder {
  const Problem& p;
  const Window& window;
  const int64_t* taps;
  const float* thresholds;
  int depth;

  int64_t tasks(const Work&) const { return p.G * lines(p.C); }

  Status operator()(const Work& work, int64_t task) const {
    const int64_t g = task / lines(p.C), l = task % lines(p.C);
    const bool direct = p.way == Way::direct;
    const int64_t size = p.way == Way::rows ? work.grid.tiles() * 64
                         : direct           ? 0
                                            : work.block.plane(p.layout);
    Cell* storage = static_cast<Cell*>(
        thread_storage(0, sizeof(Cell) * static_cast<size_t>(size * quad * depth)));
    if (size && !storage) return Status::no_memory;
    Copies<Cell> copies{p, window, work, storage, size, {}};
    TreeLine<Cell> line;
    line.depth = depth;
    line.masked = direct;
    float exact[quad][16];
    bool fits = true;
    for (int64_t j = 0; j < quad; j++) {
      // Codebooks that fill up the line repeat the last one; their table entries are zero.
      const int64_t gc = g * p.C + smaller(l * quad + j, p.C - 1);
      fits &= as_cells(thresholds + gc * (p.K - 1), p.K, line.thresholds[j], exact[j]);
      for (int level = 0; level < depth; level++) {
        const int64_t column = taps[gc * depth + level];
        if (column < 0 || column >= p.x.C * window.size) return Status::bad_tap;
        if (direct)
          point(line, work, j, level, column);
        else
          line.taps[j][level] = copies.find(column);
      }
    }
    if (p.way == Way::rows) copies.fill_columns();
    write(line, fits ? nullptr : exact, work, work.codes + g * work.group_codes(p.C) + l * 64);
    return Status::done;
  }

  void point(TreeLine<Cell>& line, const Work& work, int64_t j, int level, int64_t column) const {
    const int64_t channel = window.channel(column), position = column - channel * window.size;
    line.taps[j][level] = reinterpret_cast<const Cell*>(work.planes.data) +
                          channel * work.planes.stride_c + window.offset(position);
    line.masks[j][level] = work.inside.masks + position * work.inside.stride;
  }

  // exact: the thresholds where cells cannot hold them.
  void write(TreeLine<Cell>& line, const float (*exact)[16], const Work& work,
             uint8_t* codes) const {
    const bool direct = p.way == Way::direct;
    const int64_t stride = code_stride(p.C), images = direct ? work.block.images : 1;
    const int64_t rows = direct ? work.grid.image_flat : work.grid.groups * 16;
    for (int64_t b = 0; b < images; b++) {
      if (exact)
        encode_line_plainly(line, exact, codes, stride, rows);
      else
        encode_tree_line(line, codes, stride, rows);
      codes += rows / code_rows * stride;
      for (auto& codebook : line.taps)
        for (int level = 0; level < depth; level++) codebook[level] += work.planes.stride_b;
    }
  }
};

}  // namespace

int tree_layer(const View& x, const int64_t* taps, const float* thresholds, const uint8_t* packed,
               const Target& to, int64_t G, int64_t C, int64_t K, int64_t M, int threads) {
  PackedHeader header;
  memcpy(&header, packed, sizeof header);
  if (!fits(header, G, C, K, M)) return static_cast<int>(Status::other_table);
  int depth = 0;
  while ((int64_t{1} << depth) < K) depth++;
  const Way way = way_of(x);
  Layout layout(x);
  if (way == Way::direct) layout.pitch = x.W;
  const Window window(x, layout);
  const Problem p{x, layout, way, packed + sizeof header, G, C, K, M,
                  Output{to, G * M, x.OH * x.OW}};
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  if (x.dtype == static_cast<int64_t>(Dtype::i8))
    return run_layer(p, TreeEncoder<int8_t>{p, window, taps, thresholds, depth}, threads);
  if (x.dtype == static_cast<int64_t>(Dtype::u8))
    return run_layer(p, TreeEncoder<uint8_t>{p, window, taps, thresholds, depth}, threads);
#endif
  return run_layer(p, TreeEncoder<float>{p, window, taps, thresholds, depth}, threads);
}

HALUT_END
