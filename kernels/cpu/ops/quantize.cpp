// A table's signed integers, scales and offsets. Reference: quantize_table in halut/ops/table_quantization.py; the
// same operations in the same order, so the same bits.
#include "../lanes.h"

HALUT_BEGIN

namespace {

constexpr int64_t slice = 64;

inline float rounded(float value) {  // half to even, for |value| < 2^22
  const float magic = 12582912.f;    // 1.5 * 2^23
  return (value + magic) - magic;
}

// offset[m] = middle, reach[m] = half the span of K entries `M` apart.
void spans(const float* lut, int64_t K, int64_t M, int64_t width, float* offset, float* reach) {
  float high[slice], low[slice];
  for (int64_t m = 0; m < width; m++) high[m] = low[m] = lut[m];
  for (int64_t k = 1; k < K; k++) {
    const float* row = lut + k * M;
    for (int64_t m = 0; m < width; m++) {
      high[m] = row[m] > high[m] ? row[m] : high[m];
      low[m] = row[m] < low[m] ? row[m] : low[m];
    }
  }
  for (int64_t m = 0; m < width; m++) {
    offset[m] = (high[m] + low[m]) / 2;
    reach[m] = (high[m] - low[m]) / 2;
  }
}

}  // namespace

// lut [G, C, K, M] -> q of its shape, steps [G, M] (all equal if per_layer), offset [G, C, M].
void quantize(const float* lut, int8_t* q, float* steps, float* offset, int64_t G, int64_t C,
              int64_t K, int64_t M, float limit, float clip, bool per_layer, int threads) {
  const int64_t slices = (M + slice - 1) / slice, tasks = G * slices;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t task = 0; task < tasks; task++) {
    const int64_t g = task / slices, m0 = task % slices * slice;
    const int64_t width = M - m0 < slice ? M - m0 : slice;
    float reach[slice], most[slice] = {};
    for (int64_t c = 0; c < C; c++) {
      const int64_t gc = g * C + c;
      spans(lut + gc * K * M + m0, K, M, width, offset + gc * M + m0, reach);
      for (int64_t m = 0; m < width; m++) {
        const float clipped = reach[m] * clip;
        most[m] = clipped > most[m] ? clipped : most[m];
      }
    }
    for (int64_t m = 0; m < width; m++) {
      const float step = most[m] / limit;
      steps[g * M + m0 + m] = step > 0 ? step : 1.f;
    }
  }
  if (per_layer) {
    // A step that stands for "all entries equal" is not the largest of others.
    float most = 0;
    for (int64_t gc = 0; gc < G * C; gc++)
      for (int64_t m0 = 0; m0 < M; m0 += slice) {
        float middle[slice], reach[slice];
        const int64_t width = M - m0 < slice ? M - m0 : slice;
        spans(lut + gc * K * M + m0, K, M, width, middle, reach);
        for (int64_t m = 0; m < width; m++)
          most = reach[m] * clip > most ? reach[m] * clip : most;
      }
    const float step = most / limit > 0 ? most / limit : 1.f;
    for (int64_t m = 0; m < G * M; m++) steps[m] = step;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t gc = 0; gc < G * C; gc++)
    for (int64_t k = 0; k < K; k++) {
      const float* row = lut + (gc * K + k) * M;
      const float* step = steps + gc / C * M;
      const float* middle = offset + gc * M;
      int8_t* out = q + (gc * K + k) * M;
      for (int64_t m = 0; m < M; m++) {
        float value = rounded((row[m] - middle[m]) / step[m]);
        value = value < -limit ? -limit : value;
        out[m] = static_cast<int8_t>(static_cast<int32_t>(value > limit ? limit : value));
      }
    }
}

HALUT_END
