// A tile of 64 rows of one codebook, from inputs to gradients within the first-level cache: scores,
// their slopes under the softmax, and what those pull at inputs, prototypes and 1 / tau. Sums over
// rows are kept in 16 lanes, whatever the level. For ops/nearest_gradient.cpp.
#pragma once

#include "codebooks.h"

HALUT_BEGIN

namespace {

constexpr int64_t sum_lanes = 16;
#if defined(HALUT_AVX512)
constexpr int rows_at_once = 4, sums_at_once = 4;
#else
constexpr int rows_at_once = 2, sums_at_once = 2;
#endif

// What the tiles of one codebook add up to.
struct Sums {
  float* prototypes;  // [padded(K)][V][sum_lanes]
  float* slopes;      // [padded(K)][sum_lanes]
  float* inverse;     // [sum_lanes]

  static int64_t size(int64_t K, int64_t V) { return (padded(K) * (V + 1) + 1) * sum_lanes; }
  Sums(float* memory, int64_t K, int64_t V)
      : prototypes(memory),
        slopes(memory + padded(K) * V * sum_lanes),
        inverse(slopes + padded(K) * sum_lanes) {}
};

// Arrays over a tile's rows.
struct Tile {
  float* x;         // [V + 1][64]
  float* dx;        // [V + 1][64]
  float* scores;    // [padded(K)][64]
  float* slopes;    // [padded(K)][64], zero behind K
  float* products;  // [K][64], for a tile that is not full

  static int64_t size(int64_t K, int64_t V) { return (2 * (V + 1) + 3 * padded(K)) * tile_pitch; }
  Tile(float* memory, int64_t K, int64_t V)
      : x(memory),
        dx(x + (V + 1) * tile_pitch),
        scores(dx + (V + 1) * tile_pitch),
        slopes(scores + padded(K) * tile_pitch),
        products(slopes + padded(K) * tile_pitch) {}
};

inline void add_to(float* sum, floats value) { store(sum, load(sum) + value); }

inline float total(const float* sums) {
  float sum = 0;
  for (int64_t i = 0; i < sum_lanes; i++) sum += sums[i];
  return sum;
}

template <int64_t metric>
void find_scores(const Tile& tile, int64_t width, const Codebook& codebook, int64_t K) {
  constexpr int R = rows_at_once;
  for (int64_t n = 0; n < tile_rows; n += R * lanes)
    for (int64_t k = 0; k < padded(K); k += together) {
      floats scores[together][R];
      score<metric, R>(tile.x + n, width, codebook, k, scores);
#pragma GCC unroll 4
      for (int i = 0; i < together; i++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
          store(tile.scores + (k + i) * tile_pitch + n + r * lanes, scores[i][r]);
    }
}

// Slopes of the scores: with z = score * inverse and a = softmax(z), a (product - sum_j a_j
// product_j) factor.
void find_slopes(const Tile& tile, const float* products, int64_t pitch, int64_t K, float inverse,
                 float factor, const Sums& sums) {
  constexpr int R = rows_at_once;
  for (int64_t n = 0; n < tile_rows; n += R * lanes) {
    floats most[R], sum[R], mean[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) most[r] = load(tile.scores + n + r * lanes);
    for (int64_t k = 1; k < K; k++)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
        most[r] = larger(load(tile.scores + k * tile_pitch + n + r * lanes), most[r]);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sum[r] = mean[r] = floats{};
    for (int64_t k = 0; k < K; k++)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const int64_t at = k * tile_pitch + n + r * lanes;
        const floats e = exp_of_negative((load(tile.scores + at) - most[r]) * inverse);
        store(tile.slopes + at, e);
        sum[r] += e;
        mean[r] = multiply_add(e, load(products + k * pitch + n + r * lanes), mean[r]);
      }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      sum[r] = 1 / sum[r];
      mean[r] *= sum[r];
    }
    for (int64_t k = 0; k < K; k++)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const int64_t at = k * tile_pitch + n + r * lanes;
        const floats a = load(tile.slopes + at) * sum[r];
        const floats slope = a * (load(products + k * pitch + n + r * lanes) - mean[r]);
        store(tile.slopes + at, slope * factor);
      }
  }
  // Sums over rows, lane by lane.
  for (int64_t h = 0; h < sum_lanes; h += lanes) {
    floats gradient = load(sums.inverse + h);
    for (int64_t k = 0; k < K; k++) {
      floats sum = load(sums.slopes + k * sum_lanes + h);
      for (int64_t n = h; n < tile_rows; n += sum_lanes) {
        const floats slope = load(tile.slopes + k * tile_pitch + n);
        sum += slope;
        gradient = multiply_add(slope, load(tile.scores + k * tile_pitch + n), gradient);
      }
      store(sums.slopes + k * sum_lanes + h, sum);
    }
    store(sums.inverse + h, gradient);
  }
}

// l2, where a score's derivative is the prototype: dx[v] = sum_k slope[k] prototype[k, v], for W
// inputs from v on.
template <int W>
void pull_inputs(const Tile& tile, int64_t width, const Codebook& codebook, int64_t K, int64_t v) {
  constexpr int R = rows_at_once;
  for (int64_t n = 0; n < tile_rows; n += R * lanes) {
    floats sum[W][R];
#pragma GCC unroll 4
    for (int i = 0; i < W; i++)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sum[i][r] = floats{};
    for (int64_t k = 0; k < K; k++) {
      const float* p = codebook.prototypes + (k / together * width + v) * together + k % together;
      floats slope[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) slope[r] = load(tile.slopes + k * tile_pitch + n + r * lanes);
#pragma GCC unroll 4
      for (int i = 0; i < W; i++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
          sum[i][r] = multiply_add(slope[r], splat(p[i * together]), sum[i][r]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < W; i++)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) store(tile.dx + (v + i) * tile_pitch + n + r * lanes, sum[i][r]);
  }
}

// l2: adds slope[k, n] x[v, n] over the rows, for W inputs from v on.
template <int W>
void pull_prototypes(const Tile& tile, int64_t V, int64_t K, int64_t v, const Sums& sums) {
  constexpr int R = sums_at_once;
  for (int64_t k = 0; k < K; k += R)
    for (int64_t h = 0; h < sum_lanes; h += lanes) {
      float* const to = sums.prototypes + (k * V + v) * sum_lanes + h;
      floats sum[R][W];
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int i = 0; i < W; i++) sum[r][i] = load(to + (r * V + i) * sum_lanes);
#pragma GCC unroll 4
      for (int64_t n = h; n < tile_rows; n += sum_lanes) {
        floats x[W];
#pragma GCC unroll 4
        for (int i = 0; i < W; i++) x[i] = load(tile.x + (v + i) * tile_pitch + n);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          const floats slope = load(tile.slopes + (k + r) * tile_pitch + n);
#pragma GCC unroll 4
          for (int i = 0; i < W; i++) sum[r][i] = multiply_add(slope, x[i], sum[r][i]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int i = 0; i < W; i++) store(to + (r * V + i) * sum_lanes, sum[r][i]);
    }
}

template <int W>
void pull(const Tile& tile, int64_t width, int64_t V, const Codebook& codebook, int64_t K,
          int64_t v, const Sums& sums) {
  pull_inputs<W>(tile, width, codebook, K, v);
  pull_prototypes<W>(tile, V, K, v, sums);
}

void pull_l2(const Tile& tile, int64_t width, int64_t V, const Codebook& codebook, int64_t K,
             const Sums& sums) {
  for (int64_t v = 0; v < width;) {
    const int64_t left = width - v;  // in fours and threes, as few as will do
    if (left == 1) {
      pull<1>(tile, width, V, codebook, K, v, sums), v += 1;
    } else if (left == 2) {
      pull<2>(tile, width, V, codebook, K, v, sums), v += 2;
    } else if (left == 3 || left == 5 || left == 6 || left == 9) {
      pull<3>(tile, width, V, codebook, K, v, sums), v += 3;
    } else {
      pull<4>(tile, width, V, codebook, K, v, sums), v += 4;
    }
  }
}

// l1 and chebyshev, where a score's derivative is -sign(x - prototype): of every input, or of the
// first one at the largest distance.
template <int64_t metric>
void pull_signs(const Tile& tile, int64_t width, int64_t V, const Codebook& codebook, int64_t K,
                const Sums& sums) {
  for (int64_t v = 0; v < width; v++)
    for (int64_t n = 0; n < tile_rows; n += lanes) store(tile.dx + v * tile_pitch + n, floats{});
  for (int64_t k = 0; k < K; k++)
    for (int64_t n = 0; n < tile_rows; n += lanes) {
      const floats slope = load(tile.slopes + k * tile_pitch + n);
      const floats farthest = -load(tile.scores + k * tile_pitch + n);
      ints open = ints{} - 1;
      for (int64_t v = 0; v < width; v++) {
        const float p = codebook.prototypes[(k / together * width + v) * together + k % together];
        const floats gap = load(tile.x + v * tile_pitch + n) - p;
        ints hit = gap != 0;
        if (metric == chebyshev) {
          const ints here = open & (magnitude(gap) == farthest);
          open &= ~here;
          hit &= here;
        }
        const ints sign = (ints)gap & static_cast<int32_t>(0x80000000u);
        const floats signed_slope = (floats)(hit & ((ints)slope ^ sign));
        const int64_t at = v * tile_pitch + n;
        store(tile.dx + at, load(tile.dx + at) - signed_slope);
        add_to(sums.prototypes + (k * V + v) * sum_lanes + n % sum_lanes, signed_slope);
      }
    }
}

}  // namespace
HALUT_END
