// A tree layer for a handful of rows: table rows are added as they lie, [C, K, M], so that nothing
// but the rows in use is read and no lane of a permute idles. Any K, int8 tables.
// Reference: tree_layer_reference in tests/oracles/layer.py.
#include "../output.h"
#include "../planes.h"
#include "../row_sums.h"

HALUT_BEGIN
namespace {

float tap_value(const View& x, const Window& window, bool rows, int64_t row, int64_t column) {
  const void* data = reinterpret_cast<const void*>(x.data);
  if (rows) return element(data, x.dtype, row * x.stride_b + column * x.stride_c);
  const Tap tap = window(column);
  const int64_t position = column - tap.channel * window.size;
  const int64_t b = row / (x.OH * x.OW), oy = row / x.OW % x.OH, ox = row % x.OW;
  const int64_t y = oy * x.sh + position / x.kw * x.dh - x.top;
  const int64_t z = ox * x.sw + position % x.kw * x.dw - x.left;
  if (y < 0 || y >= x.H || z < 0 || z >= x.W) return 0;
  return element(data, x.dtype,
                 b * x.stride_b + tap.channel * x.stride_c + y * x.stride_h + z * x.stride_w);
}

}  // namespace

// `table` [G, C, K, M] as it is, not packed.
int few_rows_layer(const View& x, const int64_t* split_dims, const float* thresholds,
                   const int8_t* table, const Target& target, int64_t G, int64_t C, int64_t K,
                   int64_t M, int threads) {
  const Layout layout(x);
  const Window window(x, layout);
  const int64_t N = x.rows(), GC = G * C, columns = x.C * x.kh * x.kw;
  const Output output{target, G * M, x.OH * x.OW};
  uint8_t* codes = static_cast<uint8_t*>(thread_storage(1, static_cast<size_t>(N * GC)));
  if (!codes) return static_cast<int>(Status::no_memory);
  int depth = 0;
  while ((int64_t{1} << depth) < K) depth++;
  for (int64_t i = 0; i < GC * depth; i++)
    if (split_dims[i] < 0 || split_dims[i] >= columns) return static_cast<int>(Status::bad_tap);
  const bool rows = x.H == 1 && x.W == 1 && x.kh == 1 && x.kw == 1 && x.OH == 1 && x.OW == 1;
  const int64_t parts = (M + widest - 1) / widest;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < N * GC; i++) {
      const int64_t n = i / GC, gc = i % GC;
      int64_t node = 0;
      for (int level = 0; level < depth; level++) {
        const float value = tap_value(x, window, rows, n, split_dims[gc * depth + level]);
        node = 2 * node + 1 + (value > thresholds[gc * (K - 1) + node]);
      }
      codes[i] = static_cast<uint8_t>(node - K + 1);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < G * parts * N; i++) {
      const int64_t n = i % N, g = i / N / parts, m = i / N % parts * widest;
      const int64_t count = smaller(widest, M - m);
      int32_t sums[widest];
      sum_table_rows(codes + n * GC + g * C, table + g * C * K * M + m, C, K, M, count, sums);
      const int64_t image = n / output.plane, at = n % output.plane;
      for (int64_t j = 0; j < count; j++) {
        const int64_t gm = g * M + m + j;
        const float value = static_cast<float>(sums[j]) * output.scale[gm] + output.bias[gm];
        const int64_t to = output.contiguous ? (image * output.channels + gm) * output.plane + at
                                           : n * output.channels + gm;
        put(output, to, finished(output, to, value));
      }
    }
  }
  return static_cast<int>(Status::done);
}

HALUT_END
