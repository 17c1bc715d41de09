// y[n, g, m] = sum_d +-|x[n, g, d]| |w[g, m, d]|, int32, the sign that of x times w.
// Reference: sign_magnitude_reference in tests/oracles/integer.py.
//
// The byte multipliers of x86 take one unsigned operand and one signed one. The unsigned one is |w|,
// to 128; the signed one is x under the sign of w, which is a byte as long as x is not -128. So
// x = x' - e with x' >= -127 and e in {0, 1}: |w| (sgn(w) x') - e w, where rows that hold no -128 do
// without e. Pairs of |w| (sgn(w) x') reach 2 * 128 * 127 and do not saturate 16 bits.
#include "../arithmetic.h"
#include "../view.h"

HALUT_BEGIN

namespace {

constexpr int64_t tile_rows = 32, tile_outputs = 32;  // of one task: what two caches share

#if defined(HALUT_AVX512)
constexpr int64_t step = 64;

inline __mmask64 first_bytes(int64_t count) {
  return count >= 64 ? ~static_cast<__mmask64>(0) : (static_cast<__mmask64>(1) << count) - 1;
}

// sums += unsigned bytes times signed ones, by fours
inline __m512i multiply(__m512i sums, __m512i u, __m512i s) {
#if defined(HALUT_IS_avx512vbmi)
  return _mm512_dpbusd_epi32(sums, u, s);
#else
  return _mm512_add_epi32(
      sums, _mm512_madd_epi16(_mm512_maddubs_epi16(u, s), _mm512_set1_epi16(1)));
#endif
}

template <int rows, int outputs, bool lowest>
void tile(const int8_t* x, int64_t x_stride, const int8_t* w, int64_t D, int32_t* out,
          int64_t out_stride) {
  __m512i sums[rows][outputs] = {}, less[rows][outputs] = {};
  const __m512i least = _mm512_set1_epi8(-127), one = _mm512_set1_epi8(1);
  for (int64_t d = 0; d < D; d += step) {
    const __mmask64 mask = first_bytes(D - d);
    __m512i size[outputs], signed_w[outputs];
    __mmask64 minus[outputs];
#pragma GCC unroll 4
    for (int m = 0; m < outputs; m++) {
      signed_w[m] = _mm512_maskz_loadu_epi8(mask, w + m * D + d);
      size[m] = _mm512_abs_epi8(signed_w[m]);
      minus[m] = _mm512_movepi8_mask(signed_w[m]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < rows; n++) {
      const __m512i whole = _mm512_maskz_loadu_epi8(mask, x + n * x_stride + d);
      const __m512i part = _mm512_max_epi8(whole, least);
      const __m512i negative = _mm512_sub_epi8(_mm512_setzero_si512(), part);
#pragma GCC unroll 4
      for (int m = 0; m < outputs; m++)
        sums[n][m] = multiply(sums[n][m], size[m], _mm512_mask_mov_epi8(part, minus[m], negative));
      if (lowest) {
        const __m512i e = _mm512_maskz_mov_epi8(_mm512_cmplt_epi8_mask(whole, least), one);
#pragma GCC unroll 4
        for (int m = 0; m < outputs; m++) less[n][m] = multiply(less[n][m], e, signed_w[m]);
      }
    }
  }
#pragma GCC unroll 4  // or the sums live on the stack
  for (int n = 0; n < rows; n++)
#pragma GCC unroll 4
    for (int m = 0; m < outputs; m++)
      out[n * out_stride + m] = _mm512_reduce_add_epi32(_mm512_sub_epi32(sums[n][m], less[n][m]));
}
#elif defined(HALUT_IS_avx2)
constexpr int64_t step = 32;

inline __m256i bytes_of(const int8_t* from, int64_t count) {
  if (count >= step) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  int8_t part[step] = {};
  __builtin_memcpy(part, from, static_cast<size_t>(count));
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part));
}

inline __m256i multiply(__m256i sums, __m256i u, __m256i s) {
  const __m256i pairs = _mm256_maddubs_epi16(u, s);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

inline int32_t total(__m256i sums) {
  int32_t part[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(part), sums);
  uint32_t sum = 0;
  for (int i = 0; i < 8; i++) sum += static_cast<uint32_t>(part[i]);
  return static_cast<int32_t>(sum);
}

template <int rows, int outputs, bool lowest>
void tile(const int8_t* x, int64_t x_stride, const int8_t* w, int64_t D, int32_t* out,
          int64_t out_stride) {
  __m256i sums[rows][outputs] = {};
  const __m256i least = _mm256_set1_epi8(-127), one = _mm256_set1_epi8(1);
  for (int64_t d = 0; d < D; d += step) {
    __m256i size[outputs], signed_w[outputs];
#pragma GCC unroll 4
    for (int m = 0; m < outputs; m++) {
      signed_w[m] = bytes_of(w + m * D + d, D - d);
      size[m] = _mm256_abs_epi8(signed_w[m]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < rows; n++) {
      const __m256i whole = bytes_of(x + n * x_stride + d, D - d);
      const __m256i part = _mm256_max_epi8(whole, least);
      const __m256i e = _mm256_and_si256(_mm256_cmpgt_epi8(least, whole), one);
#pragma GCC unroll 4
      for (int m = 0; m < outputs; m++) {
        sums[n][m] = multiply(sums[n][m], size[m], _mm256_sign_epi8(part, signed_w[m]));
        if (lowest)
          sums[n][m] = _mm256_sub_epi32(
              sums[n][m], multiply(_mm256_setzero_si256(), e, signed_w[m]));
      }
    }
  }
#pragma GCC unroll 4  // or the sums live on the stack
  for (int n = 0; n < rows; n++)
#pragma GCC unroll 4
    for (int m = 0; m < outputs; m++) out[n * out_stride + m] = total(sums[n][m]);
}
#else
template <int rows, int outputs, bool lowest>
void tile(const int8_t* x, int64_t x_stride, const int8_t* w, int64_t D, int32_t* out,
          int64_t out_stride) {
  for (int n = 0; n < rows; n++)
    for (int m = 0; m < outputs; m++) {
      const int8_t *a = x + n * x_stride, *b = w + m * D;
      int32_t sum = 0;
      for (int64_t d = 0; d < D; d++) {
        const int32_t minus_a = a[d] >> 7, minus_b = b[d] >> 7;  // 0 or -1
        const uint32_t size = static_cast<uint32_t>((a[d] ^ minus_a) - minus_a) *
                              static_cast<uint32_t>((b[d] ^ minus_b) - minus_b);
        const int32_t minus = minus_a ^ minus_b;
        sum += (static_cast<int32_t>(size) ^ minus) - minus;
      }
      out[n * out_stride + m] = sum;
    }
}
#endif

bool holds_lowest(const int8_t* x, int64_t x_stride, int64_t rows, int64_t D) {
  for (int64_t n = 0; n < rows; n++) {
    int8_t least = 0;
    for (int64_t d = 0; d < D; d++) least = x[n * x_stride + d] < least ? x[n * x_stride + d] : least;
    if (least == -128) return true;
  }
  return false;
}

template <int rows, bool lowest>
void outputs_of(const int8_t* x, int64_t x_stride, const int8_t* w, int64_t D, int64_t outputs,
                int32_t* out, int64_t out_stride) {
  int64_t m = 0;
  for (; m + 4 <= outputs; m += 4)
    tile<rows, 4, lowest>(x, x_stride, w + m * D, D, out + m, out_stride);
  for (; m < outputs; m++) tile<rows, 1, lowest>(x, x_stride, w + m * D, D, out + m, out_stride);
}

template <int rows>
void rows_of(const int8_t* x, int64_t x_stride, const int8_t* w, int64_t D, int64_t outputs,
             int32_t* out, int64_t out_stride) {
  if (holds_lowest(x, x_stride, rows, D))
    outputs_of<rows, true>(x, x_stride, w, D, outputs, out, out_stride);
  else
    outputs_of<rows, false>(x, x_stride, w, D, outputs, out, out_stride);
}

}  // namespace

// x [N, G, D], weight [G, M, D], out [N, G, M]; D is small enough for int32, the caller has checked.
void sign_magnitude(const int8_t* x, const int8_t* weight, int32_t* out, int64_t N, int64_t G,
                    int64_t M, int64_t D, int threads) {
  const int64_t row_tiles = (N + tile_rows - 1) / tile_rows;
  const int64_t output_tiles = (M + tile_outputs - 1) / tile_outputs;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < G * output_tiles * row_tiles; task++) {
    const int64_t g = task / (output_tiles * row_tiles);
    const int64_t m0 = task / row_tiles % output_tiles * tile_outputs;
    const int64_t n0 = task % row_tiles * tile_rows;
    const int64_t rows = N - n0 < tile_rows ? N - n0 : tile_rows;
    const int64_t outputs = M - m0 < tile_outputs ? M - m0 : tile_outputs;
    const int8_t *a = x + (n0 * G + g) * D, *b = weight + (g * M + m0) * D;
    int32_t* y = out + (n0 * G + g) * M + m0;
    int64_t n = 0;
    for (; n + 4 <= rows; n += 4)
      rows_of<4>(a + n * G * D, G * D, b, D, outputs, y + n * G * M, G * M);
    for (; n < rows; n++) rows_of<1>(a + n * G * D, G * D, b, D, outputs, y + n * G * M, G * M);
  }
}

HALUT_END
