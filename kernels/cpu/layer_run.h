// From codes to answers, the same for every encoder: blocks of positions, tiles of outputs, threads.
//
// Positions are handled in blocks whose codes stay in the second-level cache. In a block the encoder
// writes all codes, then every tile of 4 outputs walks over the block while its table stays in the
// first-level cache. Threads take blocks, or, where there are few of them, the encoder's tasks and
// then the output tiles of one block.
#pragma once

#include "transposed.h"
#include "wide_output.h"

HALUT_BEGIN
namespace {

inline int worse(int worst, Status status) {
  const int now = static_cast<int>(status);
  return now > worst ? now : worst;
}

struct Problem {
  const View& x;
  const Layout& layout;
  Way way;
  const uint8_t* table;  // packed, behind its header
  int64_t G, C, K, M;
  Output out;
};

struct Work {
  const Block& block;
  const Grid& grid;
  uint8_t* codes;
  Segments segments;
  Inside inside;
  Planes planes{0, 0, 0};

  // Bytes of the codes of one group of codebooks.
  int64_t group_codes(int64_t C) const { return grid.tiles() * 64 / code_rows * code_stride(C); }
};

// Outputs m .. m + 4 of group g, tiles `from` .. `to` of the block: sums[tile - from]. A table serves
// `parts` tiles, `from` being number `part` of them, before the next one is read.
inline void sum_tiles(const Problem& p, const Work& work, int64_t g, int64_t outputs, int64_t from,
                      int64_t to, int64_t part, int64_t parts, int32_t (*sums)[64],
                      int64_t stride) {
  const uint8_t* table = p.table + (g * output_tiles(p.M) + outputs) * tile_bytes(p.C);
  const int64_t step = tile_rows / code_rows * code_stride(p.C);
  const uint8_t* codes = work.codes + g * work.group_codes(p.C) + from * step;
  for (int64_t tile = from; tile < to; tile++, part++, codes += step, sums += stride)
    tile_sums(codes, table, p.C, smaller(4, work.grid.groups - tile * 4),
              Soon::share(table, p.C, part, parts), sums);
}

// Four outputs of group g, all positions of the block.
inline void accumulate_planes(const Problem& p, const Work& work, int64_t g, int64_t outputs) {
  alignas(64) int32_t sums[4][64];
  const int count = static_cast<int>(smaller(4, p.M - outputs * 4));
  const int64_t* begin = work.segments.begin;
  for (int64_t tile = 0; tile < work.grid.tiles(); tile++) {
    sum_tiles(p, work, g, outputs, tile, tile + 1, tile, work.grid.tiles(), sums, 4);
    const Segment* segments = work.segments.all + begin[tile];
    const int64_t m = g * p.M + outputs * 4, n = begin[tile + 1] - begin[tile];
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
    if (write_run(p.out, sums, m, count, segments, n)) continue;
#endif
    write_tile(p.out, sums, m, count, segments, n);
  }
}

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
// 64 outputs of group g, four cache lines of a row; a table of four outputs serves some tiles before
// the next one is read.
constexpr int64_t wide = 16, chunk = 4;

inline void accumulate_rows(const Problem& p, const Work& work, int64_t g, int64_t outputs) {
  alignas(64) int32_t sums[chunk][wide][4][64];
  const int64_t* begin = work.segments.begin;
  const int64_t tiles = work.grid.tiles();
  const int64_t used = smaller(wide, output_tiles(p.M) - outputs * wide);
  for (int64_t from = 0; from < tiles; from += chunk) {
    const int64_t to = smaller(from + chunk, tiles);
    for (int64_t i = 0; i < used; i++)
      sum_tiles(p, work, g, outputs * wide + i, from, to, 0, to - from, sums[0][i], 4 * wide);
    for (int64_t tile = from; tile < to; tile++)
      for (int64_t s = begin[tile]; s < begin[tile + 1]; s++) {
        const int64_t first = outputs * wide * 4;
        if (first + wide * 4 <= p.M &&
            write_64(p.out, sums[tile - from], g * p.M + first, work.segments.all[s]))
          continue;
        for (int64_t i = 0; i < used; i += 4) {
          const int64_t m = (outputs * wide + i) * 4;
          write_rows(p.out, sums[tile - from] + i, g * p.M + m,
                     static_cast<int>(smaller(16, p.M - m)), work.segments.all[s]);
        }
      }
  }
}
#endif

// Outputs in tasks of 4, or of 64 where they are written as rows.
struct Tasks {
  bool rows;
  int64_t count;

  explicit Tasks(const Problem& p) : rows(false), count(output_tiles(p.M)) {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
    rows = !p.out.contiguous && (p.out.vectors() || p.out.dtype == static_cast<int64_t>(Dtype::i32));
    if (rows) count = (count + wide - 1) / wide;
#endif
  }

  void run(const Problem& p, const Work& work, int64_t g, int64_t i) const {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
    if (rows) return accumulate_rows(p, work, g, i);
#endif
    accumulate_planes(p, work, g, i);
  }
};

// Encoder: tasks(work), how many pieces its work on a block has, and operator()(work, i).
template <class Encoder>
Status run_block(const Problem& p, const Encoder& encoder, const Block& block, int threads) {
  const Grid grid(p.way, p.x, p.layout, block);
  const Tasks tasks(p);
  const int64_t tiles = grid.tiles(), T = tasks.count;
  Work work{block, grid, nullptr, Segments{p.out, nullptr, nullptr}, Inside{nullptr, 0}};
  // A group of 16 lanes has at most 16 segments.
  const int64_t masks = p.way == Way::direct ? p.x.kh * p.x.kw * Inside::stride_of(grid) : 0;
  const size_t lists = static_cast<size_t>(tiles) * 64 * sizeof(Segment) +
                       static_cast<size_t>(tiles + 1) * sizeof(int64_t) +
                       static_cast<size_t>(masks) * sizeof(uint16_t);
  void* list = thread_storage(2, lists);
  work.codes = static_cast<uint8_t*>(
      thread_storage(1, static_cast<size_t>(p.G * work.group_codes(p.C))));
  if (!list || !work.codes) return Status::no_memory;
  work.segments.begin = static_cast<int64_t*>(list);
  work.segments.all = reinterpret_cast<Segment*>(work.segments.begin + tiles + 1);
  work.inside.masks = reinterpret_cast<uint16_t*>(work.segments.all + tiles * 64);
  work.segments.find(p.x, grid, block);
  if (p.way == Way::direct) work.inside.find(p.x, grid, block);
  const int64_t first = block.image * p.x.stride_b + block.oy * p.x.stride_h;
  work.planes = Planes{p.x.data + first * cell_bytes(p.x), p.x.stride_b, p.x.stride_c};
  int worst = 0;
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  const bool transpose = p.way == Way::direct && is_channels_last(p.x);
  Transposed transposed(p.x, p.layout, block);
  if (transpose) {
    transposed.storage = static_cast<char*>(thread_storage(3, transposed.bytes()));
    if (!transposed.storage) return Status::no_memory;
    work.planes = transposed.planes();
  }
#endif
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
    if (transpose) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < transposed.tasks(); i++) transposed(i);
    }
#endif
#pragma omp for schedule(static) reduction(max : worst)
    for (int64_t i = 0; i < encoder.tasks(work); i++)
      worst = worse(worst, encoder(work, i));
    if (!worst) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < p.G * T; i++) tasks.run(p, work, i / T, i % T);
    }
  }
  return static_cast<Status>(worst);
}

template <class Encoder>
int run_layer(const Problem& p, const Encoder& encoder, int threads) {
  const Cut cut = cut_blocks(p.way, p.x, p.layout, p.G * code_stride(p.C) / code_rows, threads);
  int worst = 0;
  if (threads == 1 || cut.count < threads) {  // no region around the blocks': a nested one starts threads anew
    for (int64_t i = 0; i < cut.count; i++)
      worst = worse(worst, run_block(p, encoder, block_of(cut, p.x, i), threads));
    return worst;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(max : worst)
  for (int64_t i = 0; i < cut.count; i++)
    worst = worse(worst, run_block(p, encoder, block_of(cut, p.x, i), 1));
  return worst;
}

// Whether a packed table is of this level and these sizes.
inline bool fits(const PackedHeader& header, int64_t G, int64_t C, int64_t K, int64_t M) {
  return header.magic == packed_magic && header.layout == packed_layout && header.G == G &&
         header.C == C && header.K == K && header.M == M;
}

}  // namespace
HALUT_END
