// out[g, c, k, m] = sum of grad[n, g, m] over the rows n with codes[n, g, c] = k.
// Reference: scatter_add_reference in tests/oracles/lookup.py.
//
// A task is a few codebooks and a slice of outputs, which it alone writes, and goes over the rows in
// order: no races, and one result whatever the number of threads. Rows are taken in blocks that
// stay in cache while the task's codebooks use them.
#include "../lanes.h"
#include "../view.h"

HALUT_BEGIN

namespace {

constexpr int64_t task_codebooks = 8;
constexpr int64_t block_rows = 256;

struct Block {
  const uint8_t* codes;
  int64_t GC;
  const float* grad;
  int64_t stride;  // of grad's rows
  int64_t rows;
};

// Adds `vectors` registers of each row of the block to the codebook's entry of its code.
template <int vectors>
void add(const Block& block, int64_t K, float* table, int64_t M) {
  for (int64_t n = 0; n < block.rows; n++) {
    const int64_t code = block.codes[n * block.GC];
    if (code >= K) continue;
    const float* row = block.grad + n * block.stride;
    float* entry = table + code * M;
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++)
      store(entry + v * lanes, load(entry + v * lanes) + load(row + v * lanes));
  }
}

void add_rest(const Block& block, int64_t K, float* table, int64_t M, int64_t width) {
  for (int64_t n = 0; n < block.rows; n++) {
    const int64_t code = block.codes[n * block.GC];
    if (code >= K) continue;
    for (int64_t m = 0; m < width; m++) table[code * M + m] += block.grad[n * block.stride + m];
  }
}

}  // namespace

// codes [N, G * C], grad [N, G * M], out [G, C, K, M], which this clears first.
void scatter_add(const uint8_t* codes, const float* grad, float* out, int64_t N, int64_t G,
                 int64_t C, int64_t K, int64_t M, int threads) {
  constexpr int64_t slice = 8 * lanes;
  const int64_t runs = (C + task_codebooks - 1) / task_codebooks, slices = (M + slice - 1) / slice;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < G * runs * slices; task++) {
    const int64_t g = task / (runs * slices), m0 = task % slices * slice;
    const int64_t c0 = task / slices % runs * task_codebooks;
    const int64_t c1 = c0 + task_codebooks < C ? c0 + task_codebooks : C;
    const int64_t width = M - m0 < slice ? M - m0 : slice;
    for (int64_t entry = (g * C + c0) * K; entry < (g * C + c1) * K; entry++)
      for (int64_t m = 0; m < width; m++) out[entry * M + m0 + m] = 0;
    for (int64_t n0 = 0; n0 < N; n0 += block_rows) {
      const int64_t rows = N - n0 < block_rows ? N - n0 : block_rows;
      for (int64_t c = c0; c < c1; c++) {
        Block block{codes + (n0 * G + g) * C + c, G * C, grad + (n0 * G + g) * M + m0, G * M,
                    rows};
        float* table = out + (g * C + c) * K * M + m0;
        if (width == slice) {
          add<8>(block, K, table, M);
          continue;
        }
        int64_t m = 0;
        for (; m + 2 * lanes <= width; m += 2 * lanes, block.grad += 2 * lanes)
          add<2>(block, K, table + m, M);
        if (m < width) add_rest(block, K, table + m, M, width - m);
      }
    }
  }
}

HALUT_END
