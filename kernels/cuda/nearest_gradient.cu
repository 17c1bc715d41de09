// Gradient of softmax_k(-dist / tau) to inputs, prototypes and temperature.
// Reference: nearest_assign_reference in tests/oracles/nearest.py.
//
// The first kernel has one row per thread: distances to sixteen prototypes at a time in registers,
// a running softmax over all K, then slopes of the scores -dist, written over dE, and the gradient
// of the inputs. The second sums slopes over rows to the prototypes' gradient: a thread owns some
// (prototype, input) pairs of one codebook. Sums over rows keep a fixed order.
#include "device.cuh"

namespace {

enum Metric { l2, l1, chebyshev };

constexpr int at_once = 16;      // prototypes
constexpr int x_size = 4224;     // floats: inputs * (rows + 1), rows 128, 64 or 32
constexpr int max_inputs = 128;  // V, for 32 rows per block
constexpr int block_rows = 32;   // of the second kernel
constexpr int inputs_at_once = 32;

struct Block {  // which columns of the rows codebook gc reads
  i64 start, width;
};

DEVICE Block block_of(i64 gc, i64 D, i64 C) {
  const i64 g = divided(gc, C), c = gc - g * C, narrow = D / C, wider = D - narrow * C;
  return {g * D + c * narrow + (c < wider ? c : wider), narrow + (c < wider)};
}

struct Arguments {
  View v;                   // x: rows [N, groups * D], or a map with such im2col rows
  const float* prototypes;  // [GC, K, V]
  const float* tau;         // [GC], or one
  float* slopes;            // dE [GC, K, n] of rows first .. first + n, then ste_mix * dL/dscore
  u8* largest;              // chebyshev: [GC, K, n], which input is farthest
  void* dx;                 // [n, groups * D], strides below, of type dx_dtype
  float* dtau;              // [row tiles, GC], added to
  i64 first, n, D, C, GC, K, V, drow, dcolumn;
  float ste_mix;
  int dx_dtype, each_tau, by_row;
};

// Element `at` of a codebook's inputs in a row, 0 in the padding of narrow blocks.
DEVICE float input_of(const View& v, const Row& row, const Tap& tap, int at, int width) {
  if (at >= width || !inside(v, row, tap)) return 0.f;
  return load_as(v.data, row.base + tap.offset, static_cast<int>(v.dtype));
}

template <int METRIC>
DEVICE void slopes(const Arguments& a) {
  SHARED(float, x, x_size);
  SHARED(float, dx, x_size);
  SHARED(float, p, max_inputs * at_once);
  SHARED(float, sums, 128);
  SHARED(Row, window, 128);
  SHARED(Tap, taps, max_inputs);
  const int tid = threadIdx.x, rows_at_once = blockDim.x, pitch = rows_at_once + 1;
  const i64 tile = divided(blockIdx.x, a.GC), gc = blockIdx.x - tile * a.GC;
  const i64 n0 = tile * rows_at_once;
  const int rows = static_cast<int>(a.n - n0 < rows_at_once ? a.n - n0 : rows_at_once);
  const int V = static_cast<int>(a.V), K = static_cast<int>(a.K);
  const Block block = block_of(gc, a.D, a.C);
  const int width = static_cast<int>(block.width);
  const float inverse = 1.f / a.tau[a.each_tau ? gc : 0];
  float* slope = a.slopes + gc * K * a.n + n0 + tid;
  u8* largest = a.largest + gc * K * a.n + n0 + tid;

  if (tid < rows) window[tid] = row_of(a.v, a.first + n0 + tid);
  for (int i = tid; i < width; i += rows_at_once) taps[i] = tap_of(a.v, block.start + i);
  __syncthreads();
  for (int i = tid; i < rows * V; i += rows_at_once) {
    const int r = a.by_row ? i % rows : i / V, at = a.by_row ? i / rows : i % V;
    x[at * pitch + r] = input_of(a.v, window[r], taps[at < width ? at : 0], at, width);
    dx[at * pitch + r] = 0;
  }
  float distance[at_once];
  int farthest[at_once];
  auto measure = [&](int k0) {
    __syncthreads();
    for (int i = tid; i < V * at_once; i += rows_at_once) {
      const int j = i / V, at = i % V;
      p[at * at_once + j] = k0 + j < K ? a.prototypes[(gc * K + k0 + j) * V + at] : 0.f;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < at_once; j++) {
      distance[j] = METRIC == chebyshev ? -1.f : 0.f;
      farthest[j] = 0;
    }
    if (tid >= rows) return;
    for (int at = 0; at < V; at++) {
      const float value = x[at * pitch + tid];
#pragma unroll
      for (int j = 0; j < at_once; j++) {
        const float gap = value - p[at * at_once + j];
        if (METRIC == l2) distance[j] += gap * gap;
        if (METRIC == l1) distance[j] += fabsf(gap);
        if (METRIC == chebyshev && fabsf(gap) > distance[j]) {
          distance[j] = fabsf(gap);
          farthest[j] = at;
        }
      }
    }
  };

  // softmax over the scores s = -dist / tau: maximum, sum of e^(s - maximum), and of dE e^(..).
  float top = -INFINITE, total = 0, mean = 0;
  for (int k0 = 0; k0 < K; k0 += at_once) {
    measure(k0);
    if (tid >= rows) continue;
    float higher = top;
#pragma unroll
    for (int j = 0; j < at_once; j++) {
      if (k0 + j < K) higher = fmaxf(higher, -distance[j] * inverse);
    }
    const float shrink = expf(top - higher);
    total *= shrink;
    mean *= shrink;
    top = higher;
#pragma unroll
    for (int j = 0; j < at_once; j++) {
      if (k0 + j < K) {
        const float e = expf(-distance[j] * inverse - top);
        total += e;
        mean += e * slope[(k0 + j) * a.n];
      }
    }
  }
  mean /= total;
  float dtau = 0;
  for (int k0 = 0; k0 < K; k0 += at_once) {
    if (K > at_once) measure(k0);
    if (tid >= rows) continue;
    float s[at_once];
#pragma unroll
    for (int j = 0; j < at_once; j++) {
      s[j] = 0;
      if (k0 + j < K) {
        const float score = -distance[j] * inverse - top;
        const float ds = a.ste_mix * expf(score) / total * (slope[(k0 + j) * a.n] - mean);
        dtau -= score * ds * inverse;  // slopes sum to zero: scores may be counted from the top
        s[j] = ds * inverse;
        slope[(k0 + j) * a.n] = s[j];
        if (METRIC == chebyshev) largest[(k0 + j) * a.n] = static_cast<u8>(farthest[j]);
      }
    }
    for (int at = 0; at < V; at++) {
      const float value = x[at * pitch + tid];
      float sum = 0;
#pragma unroll
      for (int j = 0; j < at_once; j++) {
        const float gap = value - p[at * at_once + j];
        const float sign = static_cast<float>((gap > 0) - (gap < 0));
        if (METRIC == l2) sum -= 2.f * s[j] * gap;
        if (METRIC == l1) sum -= s[j] * sign;
        if (METRIC == chebyshev) sum -= farthest[j] == at ? s[j] * sign : 0.f;
      }
      dx[at * pitch + tid] += sum;
    }
  }
  sums[tid] = tid < rows ? dtau : 0.f;
  __syncthreads();
  for (int i = tid; i < rows * width; i += rows_at_once) {
    const int r = a.by_row ? i % rows : i / width, at = a.by_row ? i / rows : i % width;
    store_as(a.dx, (n0 + r) * a.drow + (block.start + at) * a.dcolumn, a.dx_dtype,
             dx[at * pitch + r]);
  }
  for (int half = rows_at_once / 2; half > 0; half /= 2) {
    if (tid < half) sums[tid] += sums[tid + half];
    __syncthreads();
  }
  if (tid == 0) a.dtau[tile * a.GC + gc] += sums[0];
}

// dprototypes [splits, GC, K, V], added to.
template <int METRIC>
DEVICE void prototypes(const Arguments& a, float* dprototypes, i64 split_rows) {
  constexpr int threads = 128, pitch = block_rows + 1, per = inputs_at_once * at_once / threads;
  SHARED(float, slope, at_once * pitch);
  SHARED(float, x, inputs_at_once * pitch);
  SHARED(u8, largest, at_once * pitch);
  SHARED(Row, window, block_rows);
  SHARED(Tap, taps, inputs_at_once);
  const int tid = threadIdx.x, K = static_cast<int>(a.K), V = static_cast<int>(a.V);
  const int k_tiles = (K + at_once - 1) / at_once;
  const int v_tiles = (V + inputs_at_once - 1) / inputs_at_once;
  i64 at = blockIdx.x;
  const int v0 = static_cast<int>(at - divided(at, v_tiles) * v_tiles) * inputs_at_once;
  at = divided(at, v_tiles);
  const int k0 = static_cast<int>(at - divided(at, k_tiles) * k_tiles) * at_once;
  at = divided(at, k_tiles);
  const i64 split = divided(at, a.GC), gc = at - split * a.GC;
  const i64 end = (split + 1) * split_rows < a.n ? (split + 1) * split_rows : a.n;
  const int inputs = V - v0 < inputs_at_once ? V - v0 : inputs_at_once;
  const int ks = K - k0 < at_once ? K - k0 : at_once;
  const Block block = block_of(gc, a.D, a.C);
  const int width = static_cast<int>(block.width);
  const int k = tid % at_once, first = tid / at_once;  // inputs first, first + 8, ...

  if (tid < inputs && v0 + tid < width) taps[tid] = tap_of(a.v, block.start + v0 + tid);
  float sum[per], p[per];
#pragma unroll
  for (int i = 0; i < per; i++) {
    const int input = first + i * (threads / at_once);
    sum[i] = 0;
    p[i] = k < ks && input < inputs ? a.prototypes[(gc * K + k0 + k) * V + v0 + input] : 0.f;
  }
  for (i64 n0 = split * split_rows; n0 < end; n0 += block_rows) {
    const int rows = static_cast<int>(end - n0 < block_rows ? end - n0 : block_rows);
    if (tid < rows) window[tid] = row_of(a.v, a.first + n0 + tid);
    __syncthreads();  // and the last rows have been read
    for (int i = tid; i < ks * rows; i += threads) {
      const int j = i / rows, r = i % rows;
      const i64 from = (gc * K + k0 + j) * a.n + n0 + r;
      slope[j * pitch + r] = a.slopes[from];
      if (METRIC == chebyshev) largest[j * pitch + r] = a.largest[from];
    }
    for (int i = tid; i < inputs * rows; i += threads) {
      const int r = a.by_row ? i % rows : i / inputs, input = a.by_row ? i / rows : i % inputs;
      const int known = v0 + input < width ? input : 0;
      x[input * pitch + r] = input_of(a.v, window[r], taps[known], v0 + input, width);
    }
    __syncthreads();
    if (k >= ks) continue;
    for (int r = 0; r < rows; r++) {
      const float s = slope[k * pitch + r];
      const int farthest = METRIC == chebyshev ? largest[k * pitch + r] - v0 : 0;
#pragma unroll
      for (int i = 0; i < per; i++) {
        const int input = first + i * (threads / at_once);
        if (input >= inputs) break;
        const float gap = x[input * pitch + r] - p[i];
        const float sign = static_cast<float>((gap > 0) - (gap < 0));
        if (METRIC == l2) sum[i] += 2.f * s * gap;
        if (METRIC == l1) sum[i] += s * sign;
        if (METRIC == chebyshev) sum[i] += farthest == input ? s * sign : 0.f;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < per; i++) {
    const int input = first + i * (threads / at_once);
    if (k < ks && input < inputs && v0 + input < width) {
      dprototypes[((split * a.GC + gc) * K + k0 + k) * V + v0 + input] += sum[i];
    }
  }
}

}  // namespace

#define ARGUMENTS                                                                              \
  const View v, const float *prototypes_, const float *tau, float *slopes_, u8 *largest,       \
      void *dx, float *dtau, i64 first, i64 n, i64 D, i64 C, i64 GC, i64 K, i64 V, i64 drow,   \
      i64 dcolumn, float ste_mix, int dx_dtype, int each_tau, int by_row
#define VALUES                                                                                 \
  {v, prototypes_, tau, slopes_, largest, dx, dtau, first, n, D, C, GC, K, V, drow, dcolumn,   \
   ste_mix, dx_dtype, each_tau, by_row}
#define ENTRY(metric)                                                                            \
  extern "C" __global__ void __launch_bounds__(128, 4) nearest_slopes_##metric(ARGUMENTS) {      \
    slopes<metric>(VALUES);                                                                      \
  }                                                                                              \
  extern "C" __global__ void __launch_bounds__(128, 6)                                           \
      nearest_prototypes_##metric(ARGUMENTS, float* dprototypes, i64 split_rows) {               \
    prototypes<metric>(VALUES, dprototypes, split_rows);                                         \
  }

ENTRY(l2)
ENTRY(l1)
ENTRY(chebyshev)
