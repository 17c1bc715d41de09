// Columns of a map's im2col rows, and their gradient. References: conv_taps_torch and
// conv_taps_gradient_torch in halut/ops/lookup/conv.py.
#include "../columns.h"

HALUT_BEGIN

namespace {
constexpr int64_t tile_rows = 128;
}

// out[n * stride_n + t * stride_t] = column taps[t] of row n; false if a tap is no column.
bool gather_columns(const View& view, const int64_t* taps, int64_t T, float* out, int64_t stride_n,
                    int64_t stride_t, int threads) {
  const View x = with_long_lines(view);
  Column* columns = columns_of(x, taps, T);
  if (!columns) return false;
  const int64_t N = x.rows(), tiles = (N + tile_rows - 1) / tile_rows;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t n0 = tile * tile_rows;
    const Rows rows(x, n0, smaller(tile_rows, N - n0));
    for (int64_t t = 0; t < T; t++) {
      float* column = out + n0 * stride_n + t * stride_t;
      if (stride_n == 1) {
        gather_column(x, columns[t], rows, column);
      } else {
        float run[tile_rows];
        gather_column(x, columns[t], rows, run);
        for (int64_t i = 0; i < rows.n; i++) column[i * stride_n] = run[i];
      }
    }
  }
  free(columns);
  return true;
}

// Adds grad[n * stride_n + t * stride_t] to what column taps[t] of row n reads of the float32 map
// dx. Every channel has one thread, which takes its taps in their order: no races, one result.
bool scatter_columns(const View& view, const int64_t* taps, int64_t T, const float* grad,
                     int64_t stride_n, int64_t stride_t, int threads) {
  if (!taps_fit(view, taps, T)) return false;
  const View dx = with_long_lines(view);
  const Rows rows(dx, 0, dx.rows());
  int64_t* first = static_cast<int64_t*>(malloc(sizeof(int64_t) * (dx.C + T)));
  if (!first) return false;
  int64_t* next = first + dx.C;  // the taps of a channel as a list
  for (int64_t c = 0; c < dx.C; c++) first[c] = -1;
  for (int64_t t = T - 1; t >= 0; t--) {
    int64_t& head = first[channel_of(dx, taps[t])];
    next[t] = head;
    head = t;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t c = 0; c < dx.C; c++)
    for (int64_t t = first[c]; t >= 0; t = next[t])
      scatter_column(dx, Column(dx, taps[t]), rows, grad + t * stride_t, stride_n);
  free(first);
  return true;
}

HALUT_END
