// Gradient of ste_mix * sum_k products[k, n] softmax_k(-dist / tau) in the inputs, the prototypes and 1 / tau,
// for a run of rows and of codebooks; distances are found again. Reference: autograd over
// nearest_matmul_reference in tests/oracles/nearest.py; in plain torch, halut/ops/nearest/gradient.py.
//
// Tiles (nearest_tile.h) are added up in a fixed order; a channel is one thread's: the result does
// not depend on the number of threads.
#include "../nearest_tile.h"

HALUT_BEGIN

namespace {
constexpr int64_t cell_codebooks = 16;
}  // namespace

// Rows n0 .. n1 and codebooks first .. last: products [last - first][K][pitch], of row n at n - n0.
// Adds to dx, a view of x's shape on float32, and to dprototypes [GC, K, V] and dinverse [GC];
// inverse [GC] is 1 / tau.
void nearest_gradient(const View& view, const View& dx, const float* products, int64_t pitch,
                      const float* prototypes, const float* inverse, float ste_mix,
                      float* dprototypes, float* dinverse, int64_t D, int64_t C, int64_t groups, int64_t K,
                      int64_t metric, int64_t first, int64_t last, int64_t n0, int64_t n1,
                      int threads) {
  const Blocks blocks{D, C, groups};
  const int64_t V = (D + C - 1) / C, area = view.kh * view.kw;
  const Cells cells{blocks, area, first, last, cell_codebooks};
  const int64_t number = cells.count();
  int64_t* cut = static_cast<int64_t*>(__builtin_malloc((number + 1) * sizeof(int64_t)));
  void* spanned = __builtin_malloc(span_bytes(view, n1 - n0));
  cells.write(cut);
  const Span span = make_span(view, n0, n1, spanned);
  Span out = span;
  out.view = &dx;
  // l2 scores are half of -dist.
  const float weight = metric == l2 ? 2.0f : 1.0f;
#pragma omp parallel num_threads(threads)
  {
    const int64_t held = cells.widest() * span.plane;
    float* planes = static_cast<float*>(__builtin_malloc(2 * held * sizeof(float)));
    float* dplanes = planes + held;
    float* memory = static_cast<float*>(__builtin_calloc(
        Codebook::size(K, V) + Sums::size(K, V) + Tile::size(K, V), sizeof(float)));
    Codebook codebook(memory, K, V);
    const Sums sums(memory + Codebook::size(K, V), K, V);
    const Tile tile(memory + Codebook::size(K, V) + Sums::size(K, V), K, V);
#pragma omp for schedule(dynamic)
    for (int64_t cell = 0; cell < number; cell++) {
      const int64_t c0 = cells.first_channel(cut[cell]), c1 = cells.channel_end(cut[cell + 1]);
      fill_planes(span, c0, c1, planes);
      __builtin_memset(dplanes, 0, (c1 - c0) * span.plane * sizeof(float));
      for (int64_t c = cut[cell]; c < cut[cell + 1]; c++) {
        const int64_t start = blocks.start(c), width = blocks.width(c);
        codebook.fill(prototypes + c * K * V, K, V, width, metric);
        __builtin_memset(sums.prototypes, 0, Sums::size(K, V) * sizeof(float));
        for (int64_t t = 0; t < span.tiles; t++) {
          const int64_t n = t * tile_rows, used = smaller_of(tile_rows, n1 - n0 - n);
          const float* given = products + (c - first) * K * pitch + n;
          int64_t given_pitch = pitch;
          read_tile(span, t, planes, c0, area, start, width, codebook.origin, tile.x);
          if (used < tile_rows) {  // rows that are none have zeros everywhere
            for (int64_t v = 0; v < width; v++)
              for (int64_t i = used; i < tile_rows; i++) tile.x[v * tile_pitch + i] = 0;
            for (int64_t k = 0; k < K; k++)
              for (int64_t i = 0; i < tile_rows; i++)
                tile.products[k * tile_pitch + i] = i < used ? given[k * pitch + i] : 0;
            given = tile.products, given_pitch = tile_pitch;
          }
          if (metric == l2)
            find_scores<l2>(tile, width, codebook, K);
          else if (metric == l1)
            find_scores<l1>(tile, width, codebook, K);
          else
            find_scores<chebyshev>(tile, width, codebook, K);
          find_slopes(tile, given, given_pitch, K, weight * inverse[c], weight * inverse[c] * ste_mix,
                      sums);
          if (metric == l2)
            pull_l2(tile, width, V, codebook, K, sums);
          else if (metric == l1)
            pull_signs<l1>(tile, width, V, codebook, K, sums);
          else
            pull_signs<chebyshev>(tile, width, V, codebook, K, sums);
          add_tile(span, t, tile.dx, c0, area, start, width, dplanes);
        }
        for (int64_t k = 0; k < K; k++)
          for (int64_t v = 0; v < width; v++) {
            float sum = total(sums.prototypes + (k * V + v) * sum_lanes);
            if (metric == l2)
              sum -= codebook.prototypes[(k / together * width + v) * together + k % together] *
                     total(sums.slopes + k * sum_lanes);
            dprototypes[(c * K + k) * V + v] += sum;
          }
        // The slopes hold a factor inverse that those of 1 / tau do not.
        dinverse[c] += total(sums.inverse) / inverse[c];
      }
      add_planes(out, c0, c1, dplanes);
    }
    __builtin_free(memory);
    __builtin_free(planes);
  }
  __builtin_free(spanned);
  __builtin_free(cut);
}

HALUT_END
