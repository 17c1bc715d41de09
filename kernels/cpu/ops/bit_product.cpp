// y = sum_i alpha_i sum_j beta_j (D - 2 popcount(x_j xor w_i)) + bias on words of 64 bits.
// Reference: bit_product_reference in tests/oracles/integer.py.
//
// A row of x and a plane of it is one row of counts, an output and a plane of it one column; lanes
// of a register are neighboring columns. Counts of a block of rows are exact integers; they become
// floats in the order of the reference, which every level keeps.
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstring>

#include "../planes.h"

HALUT_BEGIN
namespace {

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
constexpr int word_lanes = 8;
#elif defined(HALUT_IS_avx2)
constexpr int word_lanes = 4;
#else
constexpr int word_lanes = 2;
#endif
constexpr int vectors = 2, tile_rows = 4, tile = vectors * word_lanes;
constexpr int64_t block_counts = 1 << 15;  // of a block of rows: they stay in the second cache

typedef uint64_t words __attribute__((vector_size(8 * word_lanes)));
typedef int32_t narrow __attribute__((vector_size(4 * word_lanes)));

inline words popcount(words v) {
#if defined(HALUT_IS_avx512vbmi)
  return reinterpret_cast<words>(_mm512_popcnt_epi64(reinterpret_cast<__m512i>(v)));
#elif defined(HALUT_IS_avx512)
  const __m512i bits = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i low = _mm512_set1_epi8(15), x = reinterpret_cast<__m512i>(v);
  const __m512i sums = _mm512_add_epi8(
      _mm512_shuffle_epi8(bits, _mm512_and_si512(x, low)),
      _mm512_shuffle_epi8(bits, _mm512_and_si512(_mm512_srli_epi16(x, 4), low)));
  return reinterpret_cast<words>(_mm512_sad_epu8(sums, _mm512_setzero_si512()));
#elif defined(HALUT_IS_avx2)
  const __m256i bits = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i low = _mm256_set1_epi8(15), x = reinterpret_cast<__m256i>(v);
  const __m256i sums = _mm256_add_epi8(
      _mm256_shuffle_epi8(bits, _mm256_and_si256(x, low)),
      _mm256_shuffle_epi8(bits, _mm256_and_si256(_mm256_srli_epi16(x, 4), low)));
  return reinterpret_cast<words>(_mm256_sad_epu8(sums, _mm256_setzero_si256()));
#else
  v = v - ((v >> 1) & 0x5555555555555555u);
  v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  v = v + (v >> 8);
  v = v + (v >> 16);
  return (v + (v >> 32)) & 0x7f;
#endif
}

// counts[r][c] of `rows` rows and `width` <= tile columns; panel [W][tile].
template <int rows>
void count_tile(const uint64_t* const* x, const uint64_t* panel, int64_t W, int32_t* counts,
                int64_t columns, int64_t width) {
  words sums[rows][vectors] = {};
  for (int64_t k = 0; k < W; k++) {
    words w[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) memcpy(&w[v], panel + k * tile + v * word_lanes, sizeof w[v]);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      const words value = x[r][k] - words{};
#pragma GCC unroll 2
      for (int v = 0; v < vectors; v++) sums[r][v] += popcount(w[v] ^ value);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    int32_t* to = counts + r * columns;
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
      const narrow found = __builtin_convertvector(sums[r][v], narrow);
      const int64_t left = width - v * word_lanes;
      if (left >= word_lanes) {
        memcpy(to + v * word_lanes, &found, sizeof found);
      } else if (left > 0) {
        memcpy(to + v * word_lanes, &found, static_cast<size_t>(left) * 4);
      }
    }
  }
}

// Row n of y: [M] of one group, from its counts [J][I][M].
void combine(const int32_t* counts, const float* alpha, const float* beta, const float* bias,
             float* __restrict y, float* __restrict inner, int64_t J, int64_t I, int64_t M,
             int32_t D) {
  for (int64_t i = 0; i < I; i++) {
    for (int64_t j = 0; j < J; j++) {
      const int32_t* __restrict count = counts + (j * I + i) * M;
      const float b = beta[j];
      if (j == 0) {
        for (int64_t m = 0; m < M; m++) inner[m] = static_cast<float>(D - 2 * count[m]) * b;
      } else {
        for (int64_t m = 0; m < M; m++) inner[m] += static_cast<float>(D - 2 * count[m]) * b;
      }
    }
    const float* __restrict a = alpha + i * M;
    if (i == 0) {
      for (int64_t m = 0; m < M; m++) y[m] = inner[m] * a[m];
    } else {
      for (int64_t m = 0; m < M; m++) y[m] += inner[m] * a[m];
    }
  }
  for (int64_t m = 0; m < M; m++) y[m] += bias[m];
}

}  // namespace

// False: no memory.
bool bit_product(const uint64_t* x, const uint64_t* w, const float* alpha, const float* beta,
                 const float* bias, float* y, int64_t N, int64_t G, int64_t J, int64_t W, int64_t I,
                 int64_t M, int64_t P, int64_t D, int threads) {
  const int64_t columns = I * M, row_counts = J * columns;
  const int64_t fitting = block_counts / row_counts;
  const int64_t block_rows = fitting < 1 ? 1 : fitting > 64 ? 64 : fitting;
  const int64_t blocks = (N + block_rows - 1) / block_rows;
  const int64_t panel_bytes = W * tile * 8, count_bytes = block_rows * row_counts * 4;
  int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(max : failed)
  for (int64_t task = 0; task < blocks * G; task++) {
    const int64_t n0 = task / G * block_rows, g = task % G;
    const int64_t rows = N - n0 < block_rows ? N - n0 : block_rows;
    char* memory = static_cast<char*>(
        thread_storage(0, static_cast<size_t>(panel_bytes + count_bytes + M * 4)));
    if (!memory) {
      failed = 1;
      continue;
    }
    uint64_t* panel = reinterpret_cast<uint64_t*>(memory);
    int32_t* counts = reinterpret_cast<int32_t*>(memory + panel_bytes);
    float* inner = reinterpret_cast<float*>(memory + panel_bytes + count_bytes);
    const uint64_t* weights = w + g * W * columns;
    for (int64_t c = 0; c < columns; c += tile) {
      const int64_t width = columns - c < tile ? columns - c : tile;
      for (int64_t k = 0; k < W; k++) {
        for (int64_t i = 0; i < width; i++) panel[k * tile + i] = weights[k * columns + c + i];
        for (int64_t i = width; i < tile; i++) panel[k * tile + i] = 0;
      }
      for (int64_t r = 0; r < rows * J; r += tile_rows) {
        const int64_t left = rows * J - r;
        const uint64_t* row[tile_rows];
        for (int64_t i = 0; i < tile_rows && i < left; i++)
          row[i] = x + (((n0 + (r + i) / J) * G + g) * J + (r + i) % J) * W;
        int32_t* to = counts + r * columns + c;
        if (left >= tile_rows) {
          count_tile<tile_rows>(row, panel, W, to, columns, width);
        } else {
          for (int64_t i = 0; i < left; i++)
            count_tile<1>(row + i, panel, W, to + i * columns, columns, width);
        }
      }
    }
    for (int64_t n = 0; n < rows; n++)
      combine(counts + n * row_counts, alpha + g * columns, beta,
              bias + (n0 + n) % P * G * M + g * M, y + ((n0 + n) * G + g) * M, inner, J, I, M,
              static_cast<int32_t>(D));
  }
  return !failed;
}

HALUT_END
