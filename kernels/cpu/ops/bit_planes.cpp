// Bit j of table[number of t with x >= thresholds[t]] for every input, packed along the inputs.
// Reference: bit_planes_reference in tests/oracles/integer.py.
//
// Thresholds ascend, so plane j is table[0]'s bit, turned over by every threshold that x passes and
// where the table's bit changes: one comparison and one xor of masks, no codes.
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstring>

#include "../runs.h"

HALUT_BEGIN
namespace {

constexpr int64_t run_pixels = 64;
constexpr int most_planes = 8;

struct Steps {
  const float* thresholds;
  const uint8_t* table;
  int64_t T, J;
  uint8_t turned(int64_t t) const { return table[t] ^ table[t + 1]; }
};

// Bit c: x[c] >= threshold, of n <= 64 floats.
inline uint64_t passed(const float* x, float threshold, int64_t n) {
  uint64_t mask = 0;
  int64_t c = 0;
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  const __m512 t = _mm512_set1_ps(threshold);
  for (; c < n; c += 16) {
    const __mmask16 there = n - c >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n - c)) - 1);
    const __m512 v = _mm512_maskz_loadu_ps(there, x + c);
    mask |= static_cast<uint64_t>(_mm512_mask_cmp_ps_mask(there, v, t, _CMP_GE_OQ)) << c;
  }
#elif defined(HALUT_IS_avx2)
  const __m256 t = _mm256_set1_ps(threshold);
  for (; c + 8 <= n; c += 8) {
    const __m256 ge = _mm256_cmp_ps(_mm256_loadu_ps(x + c), t, _CMP_GE_OQ);
    mask |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(ge))) << c;
  }
#endif
  for (; c < n; c++) mask |= static_cast<uint64_t>(x[c] >= threshold) << c;
  return mask;
}

// The inputs of one pixel and group, which are neighbors: J planes of Cb bytes.
void pack_inputs(const float* x, const Steps& s, uint8_t* out, int64_t C, int64_t Cb) {
  for (int64_t c0 = 0; c0 < C; c0 += 64) {
    const int64_t n = C - c0 < 64 ? C - c0 : 64;
    const uint64_t all = n < 64 ? (uint64_t{1} << n) - 1 : ~uint64_t{0};
    uint64_t word[most_planes];
    for (int64_t j = 0; j < s.J; j++) word[j] = (s.table[0] >> j) & 1 ? all : 0;
    for (int64_t t = 0; t < s.T; t++) {
      const uint64_t mask = passed(x + c0, s.thresholds[t], n);
      for (int64_t j = 0; j < s.J; j++) word[j] ^= (s.turned(t) >> j) & 1 ? mask : 0;
    }
    const int64_t bytes = Cb - c0 / 8 < 8 ? Cb - c0 / 8 : 8;
    for (int64_t j = 0; j < s.J; j++) {
      for (int64_t b = 0; b < bytes; b++)
        out[j * Cb + c0 / 8 + b] = static_cast<uint8_t>(word[j] >> (8 * b));
    }
  }
}

// 32 inputs of a run of pixels, whose inputs lie in planes of a map.
void pack_pixels(const View& x, const Steps& s, int64_t at, int64_t pixels, int64_t inputs,
                 uint8_t* out, int64_t pitch, int64_t Cb, int64_t bytes) {
  uint32_t word[most_planes][run_pixels];
  float line[run_pixels];
  const uint32_t all = inputs < 32 ? (1u << inputs) - 1 : ~0u;
  for (int64_t j = 0; j < s.J; j++)
    for (int64_t p = 0; p < pixels; p++) word[j][p] = (s.table[0] >> j) & 1 ? all : 0;
  for (int64_t c = 0; c < inputs; c++) {
    copy_run(line, x, at + c * x.stride_c, x.stride_w, pixels);
    const uint32_t bit = 1u << c;
    for (int64_t t = 0; t < s.T; t++) {
      const float threshold = s.thresholds[t];
      for (int64_t j = 0; j < s.J; j++) {
        if (!((s.turned(t) >> j) & 1)) continue;
        uint32_t* __restrict to = word[j];
        for (int64_t p = 0; p < pixels; p++) to[p] ^= line[p] >= threshold ? bit : 0u;
      }
    }
  }
  for (int64_t p = 0; p < pixels; p++)
    for (int64_t j = 0; j < s.J; j++)
      for (int64_t b = 0; b < bytes; b++)
        out[p * pitch + j * Cb + b] = static_cast<uint8_t>(word[j][p] >> (8 * b));
}

}  // namespace

// x: the map [B, G C, H, W] under a 1x1 kernel, float32; out [B, H, W, G, J, ceil(C / 8)].
void bit_planes(const View& x, const float* thresholds, const uint8_t* table, uint8_t* out,
                int64_t T, int64_t J, int64_t G, int threads) {
  const Steps s = {thresholds, table, T, J};
  const int64_t C = x.C / G, Cb = (C + 7) / 8, pitch = G * J * Cb;
  const float* data = reinterpret_cast<const float*>(x.data);
  if (x.stride_c == 1 || x.C == 1) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t n = 0; n < x.B * x.H * x.W; n++) {
      const int64_t b = n / (x.H * x.W), p = n % (x.H * x.W);
      const int64_t at = b * x.stride_b + p / x.W * x.stride_h + p % x.W * x.stride_w;
      for (int64_t g = 0; g < G; g++)
        pack_inputs(data + at + g * C, s, out + n * pitch + g * J * Cb, C, Cb);
    }
    return;
  }
  const bool whole = x.stride_h == x.W * x.stride_w;  // rows follow each other: runs cross them
  const int64_t line = whole ? x.H * x.W : x.W, lines = whole ? 1 : x.H;
  const int64_t runs = (line + run_pixels - 1) / run_pixels;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t task = 0; task < x.B * lines * runs; task++) {
    const int64_t b = task / (lines * runs), row = task / runs % lines;
    const int64_t p = task % runs * run_pixels;
    const int64_t pixels = line - p < run_pixels ? line - p : run_pixels;
    const int64_t at = b * x.stride_b + row * x.stride_h + p * x.stride_w;
    uint8_t* first = out + ((b * lines + row) * line + p) * pitch;
    for (int64_t g = 0; g < G; g++)
      for (int64_t c = 0; c < C; c += 32) {
        const int64_t bytes = Cb - c / 8 < 4 ? Cb - c / 8 : 4;
        pack_pixels(x, s, at + (g * C + c) * x.stride_c, pixels, C - c < 32 ? C - c : 32,
                    first + g * J * Cb + c / 8, pitch, Cb, bytes);
      }
  }
}

HALUT_END
