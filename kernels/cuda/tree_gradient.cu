// Gradient of the relaxed hash tree to the inputs it tests, thresholds and temperature, in closed
// form. Reference: tree_assign_reference in tests/oracles/tree.py; formulas:
// halut/ops/tree/gradient.py. conv_taps_gradient then adds the columns up to the gradient of x.
//
// With dE of the K leaves, signs s = +-1 of x - t, g = tanh(1), and mL, mR the means under a node's
// children: S = (mR + mL) / 2, D = (mR - mL) / 2, mean = S + g s D; a node of weight P then has
// dL/ds = P (D + g s (S - E)), E the root's mean, and ds/dx = (1 - tanh((x - t) / tau)^2) / tau.
// The estimator of flips is g = 1 without the second term: `centered` is 0, for others 1.
//
// Up to K = 32 a thread walks one tree in registers: lanes span codebooks, warps share out the
// rows, and gradients of thresholds stay in registers until the end. From K = 64 a warp walks one
// tree: a lane holds K / 32 leaves, the five upper levels go by shuffles. Sums over rows keep a
// fixed order: the result is the same in every run.
#include "device.cuh"

namespace {

constexpr int threads = 256;
constexpr int block_rows = 32;
constexpr int pitch = block_rows + 1;
constexpr int books = 32;
constexpr int warps = threads / 32;
constexpr int level_pitch = books * pitch + 8;  // levels of eight trees lie in different banks
constexpr int at_once = block_rows / warps;     // loads that a thread has in flight

struct Arguments {
  const float* products;  // dE [G, n, C * K] of rows first .. first + n
  View v;                 // x: rows or a map
  const i64* columns;     // [GC * depth] of its rows
  const float* thresholds;  // [GC, K - 1], heap order
  const float* tau;         // [GC], or one
  float* dcolumns;          // [n, GC * depth], strides below
  float* dthresholds;       // [splits, GC, K - 1], added to
  float* dtau;              // [splits, GC], added to
  i64 first, n, G, C, split_rows;
  i64 drow, dcolumn;
  float ste_mix, gain, centered;
  int each_tau, by_row;
};

// ds/dx = sech^2(u) / tau, u = (x - t) / tau.
DEVICE float slope_of(float u, float inverse) {
  const float e = expf(-2.f * fabsf(u)), one = 1.f + e;
  return __fdividef(4.f * e, one * one) * inverse;  // one is in 1 .. 2: no over- or underflow
}

// Adds `value` of every warp to red[index], in the order of the warps.
template <int COUNT>
DEVICE void add_warps(float* red, const float* value, int at) {
  for (int warp = 0; warp < threads / 32; warp++) {
    if (static_cast<int>(threadIdx.x) / 32 == warp) {
#pragma unroll
      for (int i = 0; i < COUNT; i++) red[at + i] = (warp ? red[at + i] : 0.f) + value[i];
    }
    __syncthreads();
  }
}

// Where a column of the row block lies in the tile.
template <int DEPTH>
DEVICE int column_at(int column) {
  return column % DEPTH * level_pitch + column / DEPTH * pitch;
}

// Inputs of X that the trees test, into the tile.
template <class X, int DEPTH>
DEVICE void read_tile(const View& v, bool by_row, const Row* window, const Tap* taps, int rows,
                      int columns, float* tile) {
  const typename X::Raw* x = static_cast<const typename X::Raw*>(v.data);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float value[at_once];
  if (by_row) {
    if (lane >= rows) return;
    const Row row = window[lane];
#pragma unroll 1
    for (int first = warp; first < columns; first += at_once * warps) {
#pragma unroll
      for (int j = 0; j < at_once; j++) {
        const Tap tap = taps[first + j * warps < columns ? first + j * warps : first];
        value[j] = inside(v, row, tap) ? X::value(x[row.base + tap.offset]) : 0.f;
      }
#pragma unroll
      for (int j = 0; j < at_once; j++) {
        const int column = first + j * warps;
        if (column < columns) tile[column_at<DEPTH>(column) + lane] = value[j];
      }
    }
    return;
  }
#pragma unroll 1
  for (int column = lane; column < columns && warp < rows; column += 32) {
    const Tap tap = taps[column];
    float* to = tile + column_at<DEPTH>(column);
#pragma unroll
    for (int j = 0; j < at_once; j++) {
      const Row row = window[warp + j * warps < rows ? warp + j * warps : warp];
      value[j] = inside(v, row, tap) ? X::value(x[row.base + tap.offset]) : 0.f;
    }
#pragma unroll
    for (int j = 0; j < at_once; j++) {
      if (warp + j * warps < rows) to[warp + j * warps] = value[j];
    }
  }
}

// The tile to dcolumns, whose rows and columns begin at `out`.
template <int DEPTH>
DEVICE void write_tile(const Arguments& a, int rows, int columns, const float* tile, float* out) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (a.by_row) {
    if (lane >= rows) return;
    float* to = out + lane * a.drow + warp * a.dcolumn;
    for (int column = warp; column < columns; column += warps, to += warps * a.dcolumn) {
      *to = tile[column_at<DEPTH>(column) + lane];
    }
    return;
  }
  float* to = out + warp * a.drow + lane * a.dcolumn;
  for (int column = lane; column < columns; column += 32, to += 32 * a.dcolumn) {
    const float* from = tile + column_at<DEPTH>(column);
#pragma unroll
    for (int j = 0; j < at_once; j++) {
      const int r = warp + j * warps;
      if (r < rows) to[j * warps * a.drow] = from[r];
    }
  }
}

template <int DEPTH>
DEVICE void by_thread(const Arguments& a) {
  constexpr int K = 1 << DEPTH, nodes = K - 1;
  SHARED(float, tile, DEPTH * level_pitch);    // taps, then their gradients
  SHARED(float, t, books * nodes);             // thresholds, at the end their gradients
  SHARED(float, tau_sums, books);
  SHARED(Tap, taps, DEPTH * books);
  SHARED(Row, window, block_rows);
  const i64 GC = a.G * a.C, book_tiles = (GC + books - 1) / books;
  const i64 split = divided(blockIdx.x, book_tiles);
  const i64 c0 = (blockIdx.x - split * book_tiles) * books;
  const int count = static_cast<int>(GC - c0 < books ? GC - c0 : books);
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  const i64 gc = c0 + (lane < count ? lane : 0);
  const i64 end = (split + 1) * a.split_rows < a.n ? (split + 1) * a.split_rows : a.n;
  const float inverse = 1.f / a.tau[a.each_tau ? gc : 0];
  const i64 g = divided(gc, a.C);
  const float* leaves = a.products + g * a.n * a.C * K + (gc - g * a.C) * K;

  for (int i = tid; i < count * nodes; i += threads) t[i] = a.thresholds[c0 * nodes + i];
  for (int i = tid; i < count * DEPTH; i += threads) {
    taps[i] = tap_of(a.v, a.columns[c0 * DEPTH + i]);
  }
  const int dtype = static_cast<int>(a.v.dtype), columns = count * DEPTH;
  float dt[nodes], dtau[1] = {0.f};
#pragma unroll
  for (int i = 0; i < nodes; i++) dt[i] = 0;

  for (i64 n0 = split * a.split_rows; n0 < end; n0 += block_rows) {
    const int rows = static_cast<int>(end - n0 < block_rows ? end - n0 : block_rows);
    if (tid < rows) window[tid] = row_of(a.v, a.first + n0 + tid);
    __syncthreads();  // and the last gradients have left the tile
    if (dtype == f32) {
      read_tile<Float, DEPTH>(a.v, a.by_row, window, taps, rows, columns, tile);
    } else if (dtype == f16) {
      read_tile<Half, DEPTH>(a.v, a.by_row, window, taps, rows, columns, tile);
    } else {
      read_tile<Bfloat, DEPTH>(a.v, a.by_row, window, taps, rows, columns, tile);
    }
    __syncthreads();
    for (int r = warp; r < rows && lane < count; r += threads / 32) {
      float mean[K], S[nodes], D[nodes], x[DEPTH];
      const float* from = leaves + (n0 + r) * a.C * K;
      if (K >= 4) {
#pragma unroll
        for (int k = 0; k < K; k += 4) {
          const float4 four = *reinterpret_cast<const float4*>(from + k);
          mean[k] = four.x;
          mean[k + 1] = four.y;
          mean[(k + 2) % K] = four.z;
          mean[(k + 3) % K] = four.w;
        }
      } else {
        for (int k = 0; k < K; k++) mean[k] = from[k];
      }
#pragma unroll
      for (int level = 0; level < DEPTH; level++) x[level] = tile[level * level_pitch + lane * pitch + r];
      unrolled<0, DEPTH>([&](auto step) {
        constexpr int level = DEPTH - 1 - decltype(step)::value;
#pragma unroll
        for (int p = 0; p < 1 << level; p++) {
          const int node = (1 << level) - 1 + p;
          S[node] = 0.5f * (mean[2 * p + 1] + mean[2 * p]);
          D[node] = 0.5f * (mean[2 * p + 1] - mean[2 * p]);
          mean[p] = S[node] + (x[level] > t[lane * nodes + node] ? a.gain : -a.gain) * D[node];
        }
      });
      const float root = mean[0];
      float weight[nodes];
      weight[0] = a.ste_mix;
      unrolled<0, DEPTH>([&](auto step) {
        constexpr int level = decltype(step)::value;
        float dx = 0;
#pragma unroll
        for (int p = 0; p < 1 << level; p++) {
          const int node = (1 << level) - 1 + p;
          const float threshold = t[lane * nodes + node], P = weight[node];
          const float s = x[level] > threshold ? a.gain : -a.gain;
          if (level < DEPTH - 1) {
            weight[(2 * node + 1) % nodes] = P * (0.5f - 0.5f * s);
            weight[(2 * node + 2) % nodes] = P * (0.5f + 0.5f * s);
          }
          const float u = (x[level] - threshold) * inverse;
          const float slope = P * (D[node] + a.centered * s * (S[node] - root)) * slope_of(u, inverse);
          dx += slope;
          dt[node] -= slope;
          dtau[0] -= slope * u;
        }
        tile[level * level_pitch + lane * pitch + r] = dx;
      });
    }
    __syncthreads();
    write_tile<DEPTH>(a, rows, columns, tile,
                      a.dcolumns + (n0 * a.drow + c0 * DEPTH * a.dcolumn));
  }
  __syncthreads();
  add_warps<nodes>(t, dt, lane * nodes);
  add_warps<1>(tau_sums, dtau, lane);
  float* sums = a.dthresholds + (split * GC + c0) * nodes;
  for (int i = tid; i < count * nodes; i += threads) sums[i] += t[i];
  if (tid < count) a.dtau[split * GC + c0 + tid] += tau_sums[tid];
}

// Sum of a value that is the same for lanes of one prefix of LEVEL bits, over the prefixes.
DEVICE float over_prefixes(float value, int level) {
  for (int bit = 0; bit < level; bit++) value += __shfl_xor_sync(0xffffffffu, value, 16 >> bit);
  return value;
}

template <int DEPTH>
DEVICE void by_warp(const Arguments& a) {
  constexpr int K = 1 << DEPTH, nodes = K - 1, own = K / 32, inner = own - 1, lower = DEPTH - 5;
  const i64 GC = a.G * a.C, tiles = (GC + threads / 32 - 1) / (threads / 32);
  const i64 split = divided(blockIdx.x, tiles);
  const i64 gc = (blockIdx.x - split * tiles) * (threads / 32) + threadIdx.x / 32;
  if (gc >= GC) return;
  const int lane = threadIdx.x % 32;
  const i64 end = (split + 1) * a.split_rows < a.n ? (split + 1) * a.split_rows : a.n;
  const float inverse = 1.f / a.tau[a.each_tau ? gc : 0];
  const i64 g = divided(gc, a.C);
  const float* leaves = a.products + g * a.n * a.C * K + (gc - g * a.C) * K + lane * own;
  const float* t = a.thresholds + gc * nodes;
  const Tap tap = tap_of(a.v, a.columns[gc * DEPTH + (lane < DEPTH ? lane : 0)]);

  float t_upper[5], t_own[inner], dt_upper[5], dt_own[inner], dtau = 0;
#pragma unroll
  for (int level = 0; level < 5; level++) {
    t_upper[level] = t[(1 << level) - 1 + (lane >> (5 - level))];
    dt_upper[level] = 0;
  }
  unrolled<0, lower>([&](auto step) {
    constexpr int level = decltype(step)::value;
#pragma unroll
    for (int p = 0; p < 1 << level; p++) {
      t_own[(1 << level) - 1 + p] = t[(32 << level) - 1 + (lane << level) + p];
      dt_own[(1 << level) - 1 + p] = 0;
    }
  });
  for (i64 n = split * a.split_rows; n < end; n++) {
    float mean[own], S[inner], D[inner], S_upper[5], D_upper[5], x[DEPTH];
    const float* from = leaves + n * a.C * K;
#pragma unroll
    for (int k = 0; k < own; k++) mean[k] = from[k];
    const Row window = row_of(a.v, a.first + n);
    float tested = 0;  // lane l has the input of level l
    if (lane < DEPTH && inside(a.v, window, tap)) {
      tested = load_as(a.v.data, window.base + tap.offset, static_cast<int>(a.v.dtype));
    }
#pragma unroll
    for (int level = 0; level < DEPTH; level++) x[level] = __shfl_sync(0xffffffffu, tested, level);
    unrolled<0, lower>([&](auto step) {
      constexpr int level = lower - 1 - decltype(step)::value;
#pragma unroll
      for (int p = 0; p < 1 << level; p++) {
        const int node = (1 << level) - 1 + p;
        S[node] = 0.5f * (mean[2 * p + 1] + mean[2 * p]);
        D[node] = 0.5f * (mean[2 * p + 1] - mean[2 * p]);
        mean[p] = S[node] + (x[5 + level] > t_own[node] ? a.gain : -a.gain) * D[node];
      }
    });
#pragma unroll
    for (int level = 4; level >= 0; level--) {
      const float other = __shfl_xor_sync(0xffffffffu, mean[0], 16 >> level);
      S_upper[level] = 0.5f * (mean[0] + other);
      D_upper[level] = (lane & (16 >> level) ? 0.5f : -0.5f) * (mean[0] - other);
      mean[0] = S_upper[level] + (x[level] > t_upper[level] ? a.gain : -a.gain) * D_upper[level];
    }
    const float root = mean[0];
    float weight = a.ste_mix;
#pragma unroll
    for (int level = 0; level < 5; level++) {
      const float s = x[level] > t_upper[level] ? a.gain : -a.gain;
      const float u = (x[level] - t_upper[level]) * inverse;
      const float slope =
          weight * (D_upper[level] + a.centered * s * (S_upper[level] - root)) *
          slope_of(u, inverse);
      weight *= lane & (16 >> level) ? 0.5f + 0.5f * s : 0.5f - 0.5f * s;
      dt_upper[level] -= slope;
      // Each node counts once: in the first of the lanes below it.
      if ((lane & ((32 >> level) - 1)) == 0) dtau -= slope * u;
      const float dx = over_prefixes(slope, level);
      if (lane == 0) a.dcolumns[n * a.drow + (gc * DEPTH + level) * a.dcolumn] = dx;
    }
    float weights[inner];
    weights[0] = weight;
    unrolled<0, lower>([&](auto step) {
      constexpr int level = decltype(step)::value;
      float dx = 0;
#pragma unroll
      for (int p = 0; p < 1 << level; p++) {
        const int node = (1 << level) - 1 + p;
        const float s = x[5 + level] > t_own[node] ? a.gain : -a.gain, P = weights[node];
        if (level < lower - 1) {
          weights[(2 * node + 1) % inner] = P * (0.5f - 0.5f * s);
          weights[(2 * node + 2) % inner] = P * (0.5f + 0.5f * s);
        }
        const float u = (x[5 + level] - t_own[node]) * inverse;
        const float slope = P * (D[node] + a.centered * s * (S[node] - root)) * slope_of(u, inverse);
        dx += slope;
        dt_own[node] -= slope;
        dtau -= slope * u;
      }
      dx = over_prefixes(dx, 5);
      if (lane == 0) a.dcolumns[n * a.drow + (gc * DEPTH + 5 + level) * a.dcolumn] = dx;
    });
  }
  float* sums = a.dthresholds + (split * GC + gc) * nodes;
#pragma unroll
  for (int level = 0; level < 5; level++) {
    if ((lane & ((32 >> level) - 1)) == 0) {
      sums[(1 << level) - 1 + (lane >> (5 - level))] += dt_upper[level];
    }
  }
  unrolled<0, lower>([&](auto step) {
    constexpr int level = decltype(step)::value;
#pragma unroll
    for (int p = 0; p < 1 << level; p++) {
      sums[(32 << level) - 1 + (lane << level) + p] += dt_own[(1 << level) - 1 + p];
    }
  });
  dtau = over_prefixes(dtau, 5);
  if (lane == 0) a.dtau[split * GC + gc] += dtau;
}

}  // namespace

#define ENTRY(name, walk, DEPTH, BLOCKS)                                                       \
  extern "C" __global__ void __launch_bounds__(threads, BLOCKS)                                \
      name(const float* products, const View v, const i64* columns, const float* thresholds,   \
           const float* tau, float* dcolumns, float* dthresholds, float* dtau, i64 first, i64 n, \
           i64 G, i64 C, i64 split_rows, i64 drow, i64 dcolumn, float ste_mix, float gain,       \
           float centered, int each_tau, int by_row) {                                         \
    walk<DEPTH>({products, v, columns, thresholds, tau, dcolumns, dthresholds, dtau, first, n, \
                 G, C, split_rows, drow, dcolumn, ste_mix, gain, centered, each_tau, by_row});   \
  }

ENTRY(tree_gradient_1, by_thread, 1, 4)
ENTRY(tree_gradient_2, by_thread, 2, 4)
ENTRY(tree_gradient_3, by_thread, 3, 2)
ENTRY(tree_gradient_4, by_thread, 4, 2)
ENTRY(tree_gradient_5, by_thread, 5, 1)
ENTRY(tree_gradient_6, by_warp, 6, 3)
ENTRY(tree_gradient_7, by_warp, 7, 2)
ENTRY(tree_gradient_8, by_warp, 8, 2)
