// The gradients of the `tree` and `flip` estimators, given the products dE = lut . grad of a chunk of rows.
// Reference: tree_gradient_torch in halut/ops/tree/gradient.py, whose head derives the formulas.
//
// Here all constants are left out until the end. With M the unscaled mean of a subtree's leaves
// (K dE / 2^level), a pass up the tree takes S and D, the sum and difference of a node's two
// subtrees, and M = S + g s D; a pass down takes W, the product of (1 +- g s) above a node, and
//     K dL/ds = W (D + g s (S - M_root / 2^level)),
// and tanh' = 4 e / (1 + e)^2 with e = exp(-2 |x - t| / tau). Of flips only the nodes on a row's path
// have a gradient: 2 dL/ds is the difference of the leaves reached to the right and to the left.
#include "../columns.h"
#include "../lanes.h"

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
#include <immintrin.h>
#endif

HALUT_BEGIN

namespace {

constexpr int64_t tile_rows = 128;
constexpr float gain = 0.76159415595576488812f;  // g = tanh(1)

// 2^y for y in [-126, 0], to 1e-7 of the value.
inline floats power_of_two(floats y) {
  const floats magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const floats rounded = y + magic;
  const floats f = y - (rounded - magic);
  floats p = splat(1.5403530393381606e-4f);
  p = p * f + 1.3333558146428443e-3f;
  p = p * f + 9.6181291076284772e-3f;
  p = p * f + 5.5504108664821580e-2f;
  p = p * f + 2.4022650695910071e-1f;
  p = p * f + 6.9314718055994531e-1f;
  p = p * f + 1.f;
  ints exponent;
  __builtin_memcpy(&exponent, &rounded, sizeof exponent);
  exponent = (exponent << 23) + (127 << 23);  // the magic number's own bits are shifted out
  floats scale;
  __builtin_memcpy(&scale, &exponent, sizeof scale);
  return p * scale;
}

inline floats reciprocal(floats d) {
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  const floats r = _mm512_rcp14_ps(d);  // 14 bits, doubled by a Newton step
  return r * (2.f - d * r);
#else
  return 1.f / d;
#endif
}

// e / (1 + e)^2 with e = 2^-(|gap| rate), a quarter of tanh'.
inline floats slope_of(floats gap, float rate) {
  const floats y = (gap < 0 ? gap : -gap) * rate;
  const floats e = power_of_two(y < -126.f ? splat(-126.f) : y);
  const floats r = reciprocal(1.f + e);
  return e * r * r;
}

struct Sums {
  float* thresholds;  // [K - 1]: sum of the nodes' slopes
  float* tau;         // sum of slopes times x - t
};

// dx[level] for one vector of rows, with x[level] and the products of K leaves `stride` apart.
template <int depth>
inline void node_slopes(const floats* x, const float* t, const float* products, int64_t stride,
                        float rate, floats* dx, floats* totals, floats& moment) {
  constexpr int K = 1 << depth;
  floats S[K], D[K], sign[K], mean[K];  // of nodes at their heap index, the root at 1
  for (int k = 0; k < K; k++) mean[k] = load(products + k * stride);
#pragma GCC unroll 8
  for (int level = depth - 1; level >= 0; level--)
#pragma GCC unroll 16
    for (int p = 0; p < 1 << level; p++) {
      const int node = (1 << level) + p;
      sign[node] = x[level] > t[node - 1] ? splat(gain) : splat(-gain);
      S[node] = mean[2 * p + 1] + mean[2 * p];
      D[node] = mean[2 * p + 1] - mean[2 * p];
      mean[p] = S[node] + sign[node] * D[node];
    }
  floats root = mean[0], own = {};  // summed apart: a long running sum rounds more
  floats* above = mean;  // W of the nodes
  above[1] = splat(1.f);
#pragma GCC unroll 8
  for (int level = 0; level < depth; level++, root = root * .5f) {
    dx[level] = floats{};
#pragma GCC unroll 16
    for (int node = 1 << level; node < 2 << level; node++) {
      const floats gap = x[level] - t[node - 1], W = above[node];
      const floats score = D[node] + sign[node] * (S[node] - root);
      const floats slope = W * score * slope_of(gap, rate);
      dx[level] += slope;
      totals[node] += slope;
      own += slope * gap;
      if (level + 1 < depth) {
        const floats shift = W * sign[node];
        // The children's places may hold a mean no more: those were read on the way up.
        above[2 * node] = W - shift;
        above[2 * node + 1] = W + shift;
      }
    }
  }
  moment += own;
}

// The same for the estimator of flips: one slope a level, that of the node on the path.
template <int depth>
inline void path_slopes(const floats* x, const float* t, const float* products, int64_t stride,
                        float rate, floats* dx, floats* totals, floats& moment) {
  constexpr int K = 1 << depth;
  floats reached[K], D[K];  // the leaf reached below a node, and right less left at its heap index
  ints right[K], passed[K];
  for (int k = 0; k < K; k++) reached[k] = load(products + k * stride);
#pragma GCC unroll 8
  for (int level = depth - 1; level >= 0; level--)
#pragma GCC unroll 16
    for (int p = 0; p < 1 << level; p++) {
      const int node = (1 << level) + p;
      right[node] = x[level] > t[node - 1];
      D[node] = reached[2 * p + 1] - reached[2 * p];
      reached[p] = right[node] ? reached[2 * p + 1] : reached[2 * p];
    }
  floats own = {};
  passed[1] = ints{} == 0;
#pragma GCC unroll 8
  for (int level = 0; level < depth; level++) {
    const int first = 1 << level;
    floats threshold = splat(t[first - 1]), difference = D[first];
#pragma GCC unroll 16
    for (int node = first + 1; node < 2 * first; node++) {
      threshold = passed[node] ? splat(t[node - 1]) : threshold;
      difference = passed[node] ? D[node] : difference;
    }
    const floats gap = x[level] - threshold;
    const floats slope = difference * slope_of(gap, rate);
    dx[level] = slope;
    own += slope * gap;
#pragma GCC unroll 16
    for (int node = first; node < 2 * first; node++) {
      totals[node] += passed[node] ? slope : floats{};
      if (level + 1 < depth) {
        passed[2 * node] = passed[node] & ~right[node];
        passed[2 * node + 1] = passed[node] & right[node];
      }
    }
  }
  moment += own;
}

struct Chunk {
  const View& x;
  const View& dx;
  const Column* columns;   // of x
  const Column* dcolumns;  // of dx
  const float* products;   // [C * K] rows `stride` apart
  int64_t stride, n0, n;
  float ste_mix;
  bool flips;
};

template <int depth>
void codebook(const Chunk& chunk, int64_t c, int64_t first, const float* t, float tau, Sums sums) {
  constexpr int K = 1 << depth;
  const float rate = 2.8853900817779268f / tau;  // 2 / log(2)
  const float scale =
      chunk.flips ? 2.f * chunk.ste_mix / tau : 4.f * chunk.ste_mix / (K * tau);
  floats totals[K] = {}, moment = {};
  alignas(64) float tested[depth][tile_rows], dtested[depth][tile_rows], padded[K * lanes];
  for (int64_t start = 0; start < chunk.n; start += tile_rows) {
    const int64_t n = smaller(tile_rows, chunk.n - start);
    // The lines of x and dx are not the same where one of them has gaps in memory.
    const Rows rows(chunk.x, chunk.n0 + start, n), drows(chunk.dx, chunk.n0 + start, n);
    for (int level = 0; level < depth; level++) {
      gather_column(chunk.x, chunk.columns[c * depth + level], rows, tested[level]);
      for (int64_t i = n; i < tile_rows && i < n + lanes; i++) tested[level][i] = 0;
    }
    const float* products = chunk.products + (c - first) * K * chunk.stride + start;
    for (int64_t i = 0; i < n; i += lanes) {
      floats x[depth], dx[depth];
      for (int level = 0; level < depth; level++) x[level] = load(tested[level] + i);
      const float* here = products + i;
      int64_t stride = chunk.stride;
      if (n - i < lanes) {  // rows that are not there have no product, and add nothing
        for (int k = 0; k < K; k++)
          for (int64_t j = 0; j < lanes; j++)
            padded[k * lanes + j] = j < n - i ? here[k * stride + j] : 0.f;
        here = padded;
        stride = lanes;
      }
      if (chunk.flips)
        path_slopes<depth>(x, t, here, stride, rate, dx, totals, moment);
      else
        node_slopes<depth>(x, t, here, stride, rate, dx, totals, moment);
      for (int level = 0; level < depth; level++) store(dtested[level] + i, dx[level] * scale);
    }
    for (int level = 0; level < depth; level++)
      scatter_column(chunk.dx, chunk.dcolumns[c * depth + level], drows, dtested[level], 1);
  }
  for (int node = 1; node < K; node++) sums.thresholds[node - 1] -= scale * sum(totals[node]);
  *sums.tau -= scale / tau * sum(moment);
}

void codebook_any(int depth, const Chunk& chunk, int64_t c, int64_t first, const float* t,
                  float tau, Sums sums) {
  switch (depth) {
    case 1:
      return codebook<1>(chunk, c, first, t, tau, sums);
    case 2:
      return codebook<2>(chunk, c, first, t, tau, sums);
    case 3:
      return codebook<3>(chunk, c, first, t, tau, sums);
    case 4:
      return codebook<4>(chunk, c, first, t, tau, sums);
    case 5:
      return codebook<5>(chunk, c, first, t, tau, sums);
    case 6:
      return codebook<6>(chunk, c, first, t, tau, sums);
    case 7:
      return codebook<7>(chunk, c, first, t, tau, sums);
    default:
      return codebook<8>(chunk, c, first, t, tau, sums);
  }
}

// Starts of runs of codebooks such that no two runs read one channel; returns how many.
int64_t independent_runs(const View& x, const int64_t* split_dims, int64_t c0, int64_t c1, int depth,
                         int64_t* starts) {
  // starts[c - c0] first holds the least channel of codebooks c and later.
  int64_t least = x.C;
  for (int64_t c = c1 - 1; c >= c0; c--) {
    for (int level = 0; level < depth; level++)
      least = smaller(least, channel_of(x, split_dims[c * depth + level]));
    starts[c - c0] = least;
  }
  int64_t runs = 0, greatest = -1;
  for (int64_t c = c0; c < c1; c++) {
    if (starts[c - c0] > greatest) starts[runs++] = c;
    for (int level = 0; level < depth; level++)
      greatest = larger(greatest, channel_of(x, split_dims[c * depth + level]));
  }
  return runs;
}

}  // namespace

// Adds the gradients of rows n0 .. n0 + n and codebooks c0 .. c1 to dx (float32), dthresholds
// [GC, K - 1] and dtau [GC]. products [(c1 - c0) * K, n], rows `stride` apart. Codebooks that read
// one channel have one thread, which takes them in order: no races, and one result.
bool tree_gradient(const View& view, const View& dview, const int64_t* split_dims,
                   const float* thresholds, const float* tau, float ste_mix, bool flips,
                   const float* products, int64_t stride, int64_t n0, int64_t n, int64_t c0,
                   int64_t c1, int depth, float* dthresholds, float* dtau, int threads) {
  const int64_t K = 1 << depth, T = c1 * depth;
  const View x = with_long_lines(view), d = with_long_lines(dview);
  Column* columns = columns_of(x, split_dims, T);
  Column* dcolumns = columns ? columns_of(d, split_dims, T) : nullptr;
  int64_t* starts = static_cast<int64_t*>(malloc(sizeof(int64_t) * (c1 - c0 + 1)));
  const bool ready = columns && dcolumns && starts;
  if (ready) {
    const Chunk chunk{x, d, columns, dcolumns, products, stride, n0, n, ste_mix, flips};
    const int64_t runs = independent_runs(view, split_dims, c0, c1, depth, starts);
    starts[runs] = c1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t run = 0; run < runs; run++)
      for (int64_t c = starts[run]; c < starts[run + 1]; c++)
        codebook_any(depth, chunk, c, c0, thresholds + c * (K - 1), tau[c],
                     Sums{dthresholds + c * (K - 1), dtau + c});
  }
  free(columns);
  free(dcolumns);
  free(starts);
  return ready;
}

HALUT_END
