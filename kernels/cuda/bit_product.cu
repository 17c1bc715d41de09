// y = sum_i alpha_i sum_j beta_j (D - 2 popcount(x_j xor w_i)) + bias on words of 64 bits.
// Reference: bit_product_reference in tests/oracles/integer.py.
//
// A thread has one output and eight rows; the threads of a warp are neighboring outputs, so that
// words of w are read side by side and words of x are the warp's. No contraction of products and
// sums: the bits are those of the CPU's kernels.
#include "device.cuh"

namespace {

constexpr int threads = 128;
constexpr int rows_each = 8;
constexpr int block_rows = threads / 32 * rows_each;

}  // namespace

extern "C" __global__ void __launch_bounds__(threads, 4)
    bit_product(const u64* x, const u64* w, const float* alpha, const float* beta,
                const float* bias, float* y, i64 N, i64 G, i64 J, i64 W, i64 I, i64 M, i64 P,
                i64 D) {
  const i64 tiles = (M + 31) / 32;
  const i64 block = divided(blockIdx.x, G * tiles), column = blockIdx.x - block * G * tiles;
  const i64 g = divided(column, tiles);
  const i64 m = (column - g * tiles) * 32 + threadIdx.x % 32;
  const i64 n0 = block * block_rows + threadIdx.x / 32 * rows_each;
  if (m >= M || n0 >= N) return;
  const int rows = static_cast<int>(N - n0 < rows_each ? N - n0 : rows_each);
  const i64 pitch = G * J * W, step = I * M;  // from row to row of x, from word to word of w
  const u64* row = x + n0 * pitch + g * J * W;
  const u64* weight = w + g * W * step + m;
  float total[rows_each];
#pragma unroll
  for (int r = 0; r < rows_each; r++) total[r] = 0;
  for (i64 i = 0; i < I; i++) {
    float inner[rows_each];
#pragma unroll
    for (int r = 0; r < rows_each; r++) inner[r] = 0;
    for (i64 j = 0; j < J; j++) {
      int count[rows_each];
#pragma unroll
      for (int r = 0; r < rows_each; r++) count[r] = 0;
      for (i64 k = 0; k < W; k++) {
        const u64 bits = weight[k * step + i * M];
#pragma unroll
        for (int r = 0; r < rows_each; r++) {
          if (r < rows) count[r] += __popcll(row[r * pitch + j * W + k] ^ bits);
        }
      }
#pragma unroll
      for (int r = 0; r < rows_each; r++) {
        const float dot = static_cast<float>(static_cast<int>(D) - 2 * count[r]);
        const float part = __fmul_rn(dot, beta[j]);
        inner[r] = j == 0 ? part : __fadd_rn(inner[r], part);
      }
    }
    const float factor = alpha[(g * I + i) * M + m];
#pragma unroll
    for (int r = 0; r < rows_each; r++) {
      const float part = __fmul_rn(inner[r], factor);
      total[r] = i == 0 ? part : __fadd_rn(total[r], part);
    }
  }
  const i64 outputs = G * M, o = g * M + m;
#pragma unroll
  for (int r = 0; r < rows_each; r++) {
    if (r < rows) {
      const i64 n = n0 + r, position = n - divided(n, P) * P;
      y[n * outputs + o] = __fadd_rn(total[r], bias[position * outputs + o]);
    }
  }
}
