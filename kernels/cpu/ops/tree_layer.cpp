// A whole layer at inference: hash-tree codes straight from the input, look-up, exact integer sums,
// scale, bias and clamp. K in {2, 4, 8, 16}, int8 tables.
// Reference: tree_layer_reference in halut/ops/layer.py.
//
// Positions are handled in blocks whose codes stay in the second-level cache. In a block every line
// of codebooks is encoded from planes of its own (planes.h), then every tile of 4 outputs walks over
// the block while its table stays in the first-level cache. Threads take blocks, or, where there are
// few of them, the lines and then the output tiles of one block.
#include "../output.h"
#include "../planes.h"
#include "../tree_codes.h"

HALUT_BEGIN
namespace {

struct Layer {
  View x;
  Layout layout;
  const int64_t* taps;
  const float* thresholds;
  const uint8_t* table;
  int64_t G, C, K, M;
  int depth;
  Output out;

  int64_t group_codes(int64_t flat_tiles) const { return flat_tiles * tile_rows / code_rows * code_stride(C); }
  bool rows_only() const { return x.H == 1 && x.W == 1 && x.OH == 1 && x.OW == 1; }
};

// Rows of a matrix: a column of it, one float per row.
void fill_column(float* plane, const View& x, int64_t first, int64_t count, int64_t column) {
  copy_run(plane, x, first * x.stride_b + column * x.stride_c, x.stride_b, count);
  for (int64_t i = count; i < (count + 63) / 64 * 64; i++) plane[i] = 0;
}

// Codes of one line of codebooks of group g, all positions of the block.
void encode(const Layer& layer, const Block& block, int64_t tiles, int64_t g, int64_t l,
            uint8_t* codes) {
  const View& x = layer.x;
  const bool rows = layer.rows_only();
  const int64_t size = rows ? tiles * 64 : block.plane(layer.layout);
  const int taps_of_line = static_cast<int>(quad) * layer.depth;
  float* storage = static_cast<float*>(
      thread_storage(0, sizeof(float) * static_cast<size_t>(size * taps_of_line)));
  int64_t keys[16];
  int planes = 0;
  TreeLine line;
  line.depth = layer.depth;
  for (int64_t j = 0; j < quad; j++) {
    // Codebooks that fill up the line repeat the last one; their table entries are zero.
    const int64_t c = smaller(l * quad + j, layer.C - 1), gc = g * layer.C + c;
    line.thresholds[j][0] = 0;
    for (int64_t k = 1; k < 16; k++)
      line.thresholds[j][k] = k < layer.K ? layer.thresholds[gc * (layer.K - 1) + k - 1] : 0;
    for (int level = 0; level < layer.depth; level++) {
      const int64_t column = layer.taps[gc * layer.depth + level];
      const Tap tap(x, layer.layout, column);
      const int64_t key = rows ? column : (tap.channel * x.sh + tap.py) * x.sw + tap.px;
      int p = 0;
      while (p < planes && keys[p] != key) p++;
      float* plane = storage + p * size;
      if (p == planes) {
        keys[planes++] = key;
        if (rows)
          fill_column(plane, x, block.image, block.images, column);
        else
          fill_plane(plane, x, layer.layout, block, tap);
      }
      line.taps[j][level] = rows ? plane : plane + layer.layout.before + tap.offset;
    }
  }
  encode_tree_line(line, codes + g * layer.group_codes(tiles) + l * 64, code_stride(layer.C),
                   tiles * 64);
}

// The segments of all tiles, and where each tile's begin (tiles + 1 numbers).
int64_t find_segments(const Layer& layer, const Block& block, int64_t tiles, Segment* segments,
                      int64_t* begin) {
  const View& x = layer.x;
  const Layout& l = layer.layout;
  const Output& out = layer.out;
  const bool rows = layer.rows_only();
  const int64_t flat = rows ? block.images : block.flat(l, x);
  int64_t n = 0, valid = 0, ox = 0, oy = 0, image = 0;
  int64_t images_of_group[16];
  for (int64_t tile = 0; tile < tiles; tile++) {
    begin[tile] = n;
    for (int group = 0; group < 4; group++) {
      int open = -1;
      for (int j = 0; j < 16; j++) {
        const int64_t f = tile * 64 + group * 16 + j;
        const bool used = f < flat && (rows || (ox < x.OW && oy < block.rows));
        if (used) {
          // Planes of two images are apart; rows of two images are neighbours.
          if (open < 0 || (out.by_plane && images_of_group[open] != image)) {
            Segment& s = segments[n];
            s.mask = 0;
            s.group = static_cast<uint8_t>(group);
            if (out.by_plane)
              s.at = (block.image + image) * out.channels * out.plane +
                     (rows ? 0 : (block.oy + oy) * x.OW + ox);
            else
              s.at = rows ? block.image + f
                          : ((block.image + image) * x.OH + block.oy + oy) * x.OW + ox;
            open = j;
            images_of_group[j] = image;
            n++;
          }
          segments[n - 1].mask = static_cast<uint16_t>(segments[n - 1].mask | 1u << j);
          valid++;
        }
        if (rows) {
          image++;
        } else if (++ox == l.pitch) {
          ox = 0;
          if (++oy == l.image_rows) {
            oy = 0;
            image++;
          }
        }
      }
    }
  }
  begin[tiles] = n;
  return valid;
}

void accumulate_tile(const Layer& layer, int64_t tiles, int64_t g, int64_t mt,
                     const uint8_t* codes, const Segment* segments, const int64_t* begin) {
  alignas(64) int32_t sums[4][64];
  const uint8_t* table = layer.table + (g * output_tiles(layer.M) + mt) * tile_bytes(layer.C);
  const uint8_t* at = codes + g * layer.group_codes(tiles);
  const int64_t step = tile_rows / code_rows * code_stride(layer.C);
  const int count = static_cast<int>(smaller(4, layer.M - mt * 4));
  for (int64_t tile = 0; tile < tiles; tile++, at += step) {
    if (begin[tile] == begin[tile + 1]) continue;
    tile_sums(at, table, layer.C, sums);
    write_tile(layer.out, sums, g * layer.M + mt * 4, count, segments + begin[tile],
               begin[tile + 1] - begin[tile]);
  }
}

bool run_block(const Layer& layer, const Block& block, int threads) {
  const int64_t flat =
      layer.rows_only() ? block.images : block.flat(layer.layout, layer.x);
  const int64_t tiles = (flat + 63) / 64, L = lines(layer.C), T = output_tiles(layer.M);
  const size_t code_bytes = static_cast<size_t>(layer.G * layer.group_codes(tiles));
  uint8_t* codes = static_cast<uint8_t*>(thread_storage(1, code_bytes));
  // A group of 16 lanes has at most 16 segments.
  Segment* segments = static_cast<Segment*>(
      thread_storage(2, sizeof(Segment) * static_cast<size_t>(tiles) * 64));
  int64_t* begin = static_cast<int64_t*>(
      thread_storage(3, sizeof(int64_t) * static_cast<size_t>(tiles + 1)));
  if (!codes || !segments || !begin) return false;
  find_segments(layer, block, tiles, segments, begin);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < layer.G * L; i++) encode(layer, block, tiles, i / L, i % L, codes);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < layer.G * T; i++)
      accumulate_tile(layer, tiles, i / T, i % T, codes, segments, begin);
  }
  return true;
}

struct Blocks {
  int64_t images, rows, per_image, count;  // images of a block, or output rows of a band
};

Blocks cut(const Layer& layer) {
  const View& x = layer.x;
  const int64_t per_row = layer.G * code_stride(layer.C) / code_rows;
  const int64_t target = smaller(larger((int64_t{1} << 18) / per_row / 64 * 64, 64), 4096);
  Blocks b;
  b.per_image = 1;
  b.rows = x.OH;
  if (layer.rows_only()) {
    b.images = target;
  } else {
    const int64_t image = layer.layout.image_rows * layer.layout.pitch;
    b.images = larger(target / image, 1);
    if (image > target + target / 2) {
      b.rows = larger(target / layer.layout.pitch, 1);
      b.per_image = (x.OH + b.rows - 1) / b.rows;
    }
  }
  b.count = (x.B + b.images - 1) / b.images * b.per_image;
  return b;
}

}  // namespace

bool pack_table(const int8_t* table, uint8_t* packed, int64_t G, int64_t C, int64_t K, int64_t M,
                int64_t bytes) {
  const int64_t T = output_tiles(M);
  const int64_t need = static_cast<int64_t>(sizeof(PackedHeader)) + G * T * tile_bytes(C);
  if (bytes != need) return false;
  const PackedHeader header{packed_magic, packed_layout, G, C, K, M, {0, 0}};
  memcpy(packed, &header, sizeof header);
  uint8_t* out = packed + sizeof header;
  const int fill = packed_layout == 1 ? 0 : 128;
  memset(out, fill, static_cast<size_t>(need) - sizeof header);
  for (int64_t g = 0; g < G; g++)
    for (int64_t c = 0; c < C; c++)
      for (int64_t k = 0; k < K; k++)
        for (int64_t m = 0; m < M; m++) {
          const int64_t tile = (g * T + m / 4) * tile_bytes(C);
          const int64_t entry = ((c / quad * 4 + m % 4) * quad + c % quad) * 16 + k;
          out[tile + entry] =
              static_cast<uint8_t>(table[((g * C + c) * K + k) * M + m] + (packed_layout == 1 ? 0 : 128));
        }
  return true;
}

int64_t packed_bytes(int64_t G, int64_t C, int64_t M) {
  return static_cast<int64_t>(sizeof(PackedHeader)) + G * output_tiles(M) * tile_bytes(C);
}

// False if the packed table is not of this level and these sizes, or memory is short.
bool tree_layer(const View& x, const int64_t* taps, const float* thresholds, const uint8_t* packed,
                const float* scale, const float* bias, float low, void* out, int64_t dtype,
                bool by_plane, int64_t G, int64_t C, int64_t K, int64_t M, int threads) {
  PackedHeader header;
  memcpy(&header, packed, sizeof header);
  if (header.magic != packed_magic || header.layout != packed_layout || header.G != G ||
      header.C != C || header.K != K || header.M != M)
    return false;
  int depth = 0;
  while ((int64_t{1} << depth) < K) depth++;
  const Layer layer{x, Layout(x), taps, thresholds, packed + sizeof header, G, C, K, M, depth,
                    Output{out, dtype, by_plane, G * M, x.OH * x.OW, scale, bias, low}};
  const Blocks blocks = cut(layer);
  const bool within = blocks.count < 2 * threads;
  bool done = true;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (!within && threads > 1) \
    reduction(&& : done)
  for (int64_t i = 0; i < blocks.count; i++) {
    Block block;
    block.image = i / blocks.per_image * blocks.images;
    block.images = smaller(blocks.images, x.B - block.image);
    block.oy = i % blocks.per_image * blocks.rows;
    block.rows = smaller(blocks.rows, x.OH - block.oy);
    done = run_block(layer, block, within ? threads : 1) && done;
  }
  return done;
}

HALUT_END
