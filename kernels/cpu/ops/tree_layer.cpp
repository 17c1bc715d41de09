// A whole layer at inference: hash-tree codes straight from the input, look-up, exact integer sums,
// scale, bias and clamp. K in {2, 4, 8, 16}, int8 tables.
// Reference: tree_layer_reference in halut/ops/layer_reference.py.
//
// Positions are handled in blocks whose codes stay in the second-level cache. In a block every line
// of codebooks is encoded, then every tile of 4 outputs walks over the block while its table stays
// in the first-level cache. Threads take blocks, or, where there are few of them, the lines and then
// the output tiles of one block.
#include "../layer_blocks.h"
#include "../tree_codes.h"

HALUT_BEGIN
namespace {

int worse(int worst, Status status) {
  const int now = static_cast<int>(status);
  return now > worst ? now : worst;
}

struct Layer {
  const View& x;
  const Layout& layout;
  const Window& window;
  Way way;
  const int64_t* taps;
  const float* thresholds;
  const uint8_t* table;
  int64_t G, C, K, M;
  int depth;
  Output out;
};

struct Work {
  const Block& block;
  const Grid& grid;
  uint8_t* codes;
  Segments segments;
  Inside inside;

  int64_t group_codes(int64_t C) const {
    return grid.tiles() * 64 / code_rows * code_stride(C);
  }
};

// Copies of what the taps of one line read; equal ones are made once.
struct Copies {
  const Layer& layer;
  const Work& work;
  float* storage;
  int64_t size, keys[16];
  int count = 0;

  const float* find(int64_t column) {
    const View& x = layer.x;
    const bool rows = layer.way == Way::rows;
    const Tap tap = rows ? Tap{column, 0, 0, 0} : layer.window(column);
    const int64_t key = (tap.channel * x.sh + tap.py) * x.sw + tap.px;
    int i = 0;
    while (i < count && keys[i] != key) i++;
    float* plane = storage + i * size;
    if (i == count) {
      keys[count++] = key;
      if (!rows) fill_plane(plane, x, layer.layout, work.block, tap);
    }
    return rows ? plane : plane + layer.layout.before + tap.offset;
  }

  // Columns of a matrix, 8 rows at a time: a row's cache lines serve all of them, and with strides
  // of whole pages 8 lines still fit the ways of one set.
  void fill_columns() {
    const View& x = layer.x;
    const int64_t first = work.block.image, n = work.block.images;
    for (int64_t row = 0; row < n; row += 8)
      for (int i = 0; i < count; i++) {
        const int64_t at = (first + row) * x.stride_b + keys[i] * x.stride_c;
        copy_run(storage + i * size + row, x, at, x.stride_b, smaller(8, n - row));
      }
  }
};

void set_thresholds(TreeLine& line, int64_t j, const Layer& layer, int64_t gc) {
  for (int64_t k = 0; k < 16; k++)
    line.thresholds[j][k] =
        k > 0 && k < layer.K ? layer.thresholds[gc * (layer.K - 1) + k - 1] : 0;
}

// Codes of one line of codebooks of group g, all positions of the block.
Status encode(const Layer& layer, const Work& work, int64_t g, int64_t l) {
  const View& x = layer.x;
  const bool direct = layer.way == Way::direct;
  const int64_t size = layer.way == Way::rows ? work.grid.tiles() * 64
                       : direct               ? 0
                                              : work.block.plane(layer.layout);
  float* storage = static_cast<float*>(
      thread_storage(0, sizeof(float) * static_cast<size_t>(size * quad * layer.depth)));
  if (size && !storage) return Status::no_memory;
  Copies copies{layer, work, storage, size, {}};
  TreeLine line;
  line.depth = layer.depth;
  line.masked = direct;
  const float* image = reinterpret_cast<const float*>(x.data) + work.block.image * x.stride_b +
                       work.block.oy * x.stride_h;
  for (int64_t j = 0; j < quad; j++) {
    // Codebooks that fill up the line repeat the last one; their table entries are zero.
    const int64_t gc = g * layer.C + smaller(l * quad + j, layer.C - 1);
    set_thresholds(line, j, layer, gc);
    for (int level = 0; level < layer.depth; level++) {
      const int64_t column = layer.taps[gc * layer.depth + level];
      if (column < 0 || column >= x.C * x.kh * x.kw) return Status::bad_tap;
      if (direct) {
        const Tap tap = layer.window(column);
        const int64_t position = column - tap.channel * layer.window.size;
        line.taps[j][level] = image + tap.channel * x.stride_c + tap.offset;
        line.masks[j][level] = work.inside.masks + position * work.inside.groups;
      } else {
        line.taps[j][level] = copies.find(column);
      }
    }
  }
  if (layer.way == Way::rows) copies.fill_columns();
  const int64_t stride = code_stride(layer.C), images = direct ? work.block.images : 1;
  const int64_t groups = direct ? work.inside.groups : work.grid.groups;
  uint8_t* codes = work.codes + g * work.group_codes(layer.C) + l * 64;
  for (int64_t b = 0; b < images; b++) {
    encode_tree_line(line, codes, stride, groups * 16);
    codes += groups * 16 / code_rows * stride;
    for (auto& codebook : line.taps)
      for (int level = 0; level < layer.depth; level++) codebook[level] += x.stride_b;
  }
  return Status::done;
}

// Outputs m .. m + 4 of group g, tiles `from` .. `to` of the block: sums[tile - from].
void sum_tiles(const Layer& layer, const Work& work, int64_t g, int64_t outputs, int64_t from,
               int64_t to, int32_t (*sums)[64], int64_t stride) {
  const uint8_t* table = layer.table + (g * output_tiles(layer.M) + outputs) * tile_bytes(layer.C);
  const int64_t step = tile_rows / code_rows * code_stride(layer.C);
  const uint8_t* codes = work.codes + g * work.group_codes(layer.C) + from * step;
  for (int64_t tile = from; tile < to; tile++, codes += step, sums += stride)
    tile_sums(codes, table, layer.C, smaller(4, work.grid.groups - tile * 4),
              tile + 1 == work.grid.tiles(), sums);
}

// Four outputs of group g, all positions of the block.
void accumulate_planes(const Layer& layer, const Work& work, int64_t g, int64_t outputs) {
  alignas(64) int32_t sums[4][64];
  const int count = static_cast<int>(smaller(4, layer.M - outputs * 4));
  const int64_t* begin = work.segments.begin;
  for (int64_t tile = 0; tile < work.grid.tiles(); tile++) {
    sum_tiles(layer, work, g, outputs, tile, tile + 1, sums, 4);
    write_tile(layer.out, sums, g * layer.M + outputs * 4, count,
               work.segments.all + begin[tile], begin[tile + 1] - begin[tile]);
  }
}

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
// 64 outputs of group g, four cache lines of a row; a table of four outputs serves some tiles before
// the next one is read.
constexpr int64_t wide = 16, chunk = 4;

void accumulate_rows(const Layer& layer, const Work& work, int64_t g, int64_t outputs) {
  alignas(64) int32_t sums[chunk][wide][4][64];
  const int64_t* begin = work.segments.begin;
  const int64_t tiles = work.grid.tiles();
  const int64_t used = smaller(wide, output_tiles(layer.M) - outputs * wide);
  for (int64_t from = 0; from < tiles; from += chunk) {
    const int64_t to = smaller(from + chunk, tiles);
    for (int64_t i = 0; i < used; i++)
      sum_tiles(layer, work, g, outputs * wide + i, from, to, sums[0][i], 4 * wide);
    for (int64_t tile = from; tile < to; tile++)
      for (int64_t s = begin[tile]; s < begin[tile + 1]; s++)
        for (int64_t i = 0; i < used; i += 4) {
          const int64_t m = (outputs * wide + i) * 4;
          write_rows(layer.out, sums[tile - from] + i, g * layer.M + m,
                     static_cast<int>(smaller(16, layer.M - m)), work.segments.all[s]);
        }
  }
}
#endif

// Outputs in tasks of 4, or of 64 where they are written as rows.
struct Tasks {
  bool rows;
  int64_t count;

  explicit Tasks(const Layer& layer) : rows(false), count(output_tiles(layer.M)) {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
    const Dtype dtype = static_cast<Dtype>(layer.out.dtype);
    rows = !layer.out.by_plane && (dtype == Dtype::f32 || dtype == Dtype::i8);
    if (rows) count = (count + wide - 1) / wide;
#endif
  }

  void run(const Layer& layer, const Work& work, int64_t g, int64_t i) const {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
    if (rows) return accumulate_rows(layer, work, g, i);
#endif
    accumulate_planes(layer, work, g, i);
  }
};

Status run_block(const Layer& layer, const Block& block, int threads) {
  const Grid grid(layer.way, layer.x, layer.layout, block);
  const Tasks tasks(layer);
  const int64_t tiles = grid.tiles(), L = lines(layer.C), T = tasks.count;
  Work work{block, grid, nullptr, Segments{layer.out, nullptr, nullptr}, Inside{nullptr, 0}};
  // A group of 16 lanes has at most 16 segments.
  const int64_t masks = layer.way == Way::direct ? layer.x.kh * layer.x.kw * grid.groups : 0;
  const size_t lists = static_cast<size_t>(tiles) * 64 * sizeof(Segment) +
                       static_cast<size_t>(tiles + 1) * sizeof(int64_t) +
                       static_cast<size_t>(masks) * sizeof(uint16_t);
  void* list = thread_storage(2, lists);
  work.codes = static_cast<uint8_t*>(
      thread_storage(1, static_cast<size_t>(layer.G * work.group_codes(layer.C))));
  if (!list || !work.codes) return Status::no_memory;
  work.segments.begin = static_cast<int64_t*>(list);
  work.segments.all = reinterpret_cast<Segment*>(work.segments.begin + tiles + 1);
  work.inside.masks = reinterpret_cast<uint16_t*>(work.segments.all + tiles * 64);
  work.segments.find(layer.x, grid, block);
  if (layer.way == Way::direct) work.inside.find(layer.x, grid, block);
  int worst = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static) reduction(max : worst)
    for (int64_t i = 0; i < layer.G * L; i++)
      worst = worse(worst, encode(layer, work, i / L, i % L));
    if (!worst) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < layer.G * T; i++) tasks.run(layer, work, i / T, i % T);
    }
  }
  return static_cast<Status>(worst);
}

}  // namespace

int tree_layer(const View& x, const int64_t* taps, const float* thresholds, const uint8_t* packed,
                const float* scale, const float* bias, float low, void* out, int64_t dtype,
                bool by_plane, int64_t G, int64_t C, int64_t K, int64_t M, int threads) {
  PackedHeader header;
  memcpy(&header, packed, sizeof header);
  if (header.magic != packed_magic || header.layout != packed_layout || header.G != G ||
      header.C != C || header.K != K || header.M != M)
    return static_cast<int>(Status::other_table);
  int depth = 0;
  while ((int64_t{1} << depth) < K) depth++;
  const Way way = way_of(x);
  Layout layout(x);
  if (way == Way::direct) layout.pitch = x.W;
  const Window window(x, layout);
  const Layer layer{x, layout, window, way, taps, thresholds, packed + sizeof header,
                    G, C, K, M, depth,
                    Output{out, dtype, by_plane, G * M, x.OH * x.OW, scale, bias, low}};
  const Cut cut = cut_blocks(layer.way, x, layout, G * code_stride(C) / code_rows);
  const bool within = cut.count < 2 * threads;
  int worst = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (!within && threads > 1) \
    reduction(max : worst)
  for (int64_t i = 0; i < cut.count; i++)
    worst = worse(worst, run_block(layer, block_of(cut, x, i), within ? threads : 1));
  return worst;
}

HALUT_END
