// out[g, c, k, m] = sum of grad[n, g, m] over the rows n with codes[n, g, c] = k.
// Reference: scatter_add_reference in halut/ops/lookup.py.
//
// A block keeps the partial tables of some codebooks for 32 outputs and a run of rows in shared
// memory. One thread owns each (codebook, output): its additions need no atomics and keep their
// order. The partial tables are then added to the result atomically, or kept apart for a sum in a
// fixed order.
#include "device.cuh"

namespace {

constexpr int part_size = 8192;  // floats: books * K * outputs
constexpr int outputs = 32;
constexpr int block_rows = 32;
constexpr int max_books = 32;

// out [G, C, K, M], zero before if atomic; else one such table per split, or the only one.
template <class X>
DEVICE void scatter_add(const u8* codes, const typename X::Raw* grad, float* out, i64 N, i64 G,
                        i64 C, int K, i64 M, i64 split_rows, int books, int atomic) {
  SHARED(float, part, part_size);
  SHARED(float, tile, block_rows * outputs);
  SHARED(u8, code, block_rows * max_books);
  const i64 m_tiles = (M + outputs - 1) / outputs, book_tiles = (C + books - 1) / books;
  i64 at = blockIdx.x;
  const i64 m_tile = at - divided(at, m_tiles) * m_tiles;
  at = divided(at, m_tiles);
  const i64 c0 = (at - divided(at, book_tiles) * book_tiles) * books;
  at = divided(at, book_tiles);
  const i64 split = divided(at, G), g = at - split * G;
  const int count = static_cast<int>(C - c0 < books ? C - c0 : books);
  const int tid = threadIdx.x, threads = blockDim.x, lane = tid % 32, warps = threads / 32;
  const i64 m0 = m_tile * outputs;
  const i64 end = (split + 1) * split_rows < N ? (split + 1) * split_rows : N;

  for (int i = tid; i < count * K * outputs; i += threads) part[i] = 0;
  for (i64 n0 = split * split_rows; n0 < end; n0 += block_rows) {
    const int rows = static_cast<int>(end - n0 < block_rows ? end - n0 : block_rows);
    __syncthreads();
    for (int i = tid; i < rows * outputs; i += threads) {
      const i64 m = m0 + i % outputs;
      tile[i] = m < M ? X::value(grad[((n0 + i / outputs) * G + g) * M + m]) : 0.f;
    }
    for (int i = tid; i < rows * books; i += threads) {
      const int r = i / books, c = i % books;
      if (c < count) {
        const int k = codes[((n0 + r) * G + g) * C + c0 + c];
        code[r * max_books + c] = static_cast<u8>(k < K ? k : K - 1);
      }
    }
    __syncthreads();
    // Four codebooks at a time: their additions wait for each other's memory, not for their own.
    for (int c = tid / 32; c < count; c += 4 * warps) {
      for (int r = 0; r < rows; r++) {
        const float value = tile[r * outputs + lane];
        float* entry[4];
        float sum[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int book = c + j * warps;
          if (book < count) {
            entry[j] = part + (book * K + code[r * max_books + book]) * outputs + lane;
            sum[j] = *entry[j] + value;
          }
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
          if (c + j * warps < count) *entry[j] = sum[j];
        }
      }
    }
  }
  __syncthreads();
  if (!atomic) out += split * G * C * K * M;
  for (int i = tid; i < count * K * outputs; i += threads) {
    const i64 m = m0 + i % outputs;
    if (m >= M) continue;
    float* to = out + ((g * C + c0) * K + i / outputs) * M + m;
    if (atomic) {
      atomicAdd(to, part[i]);
    } else {
      *to = part[i];
    }
  }
}

}  // namespace

#define ENTRY(name, X)                                                                          \
  extern "C" __global__ void __launch_bounds__(128, 4)                                          \
      name(const u8* codes, const X::Raw* grad, float* out, i64 N, i64 G, i64 C, i64 K, i64 M,  \
           i64 split_rows, int books, int atomic) {                                             \
    scatter_add<X>(codes, grad, out, N, G, C, static_cast<int>(K), M, split_rows, books, atomic); \
  }

ENTRY(scatter_add_f32, Float)
ENTRY(scatter_add_f16, Half)
ENTRY(scatter_add_bf16, Bfloat)
