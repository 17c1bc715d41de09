// out[g, c, k, m] = sum of grad[n, g, m] over the rows n with codes[n, g, c] = k.
// Reference: scatter_add_reference in tests/oracles/lookup.py.
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
constexpr int together = 4;  // codebooks, and rows, whose loads are in flight at once

// out [G, C, K, M], zero before if atomic; else one such table per split, or the only one.
template <class X>
DEVICE void scatter_add(const u8* codes, const typename X::Raw* grad, float* out, i64 N, i64 G,
                        i64 C, int K, i64 M, i64 split_rows, int books, int atomic) {
  SHARED(float, part, part_size);
  SHARED(float, tile, block_rows * outputs);
  SHARED(u32, code, block_rows * max_books / together);
  const i64 m_tiles = (M + outputs - 1) / outputs, book_tiles = (C + books - 1) / books;
  i64 at = blockIdx.x;
  const i64 m_tile = at - divided(at, m_tiles) * m_tiles;
  at = divided(at, m_tiles);
  const i64 c0 = (at - divided(at, book_tiles) * book_tiles) * books;
  at = divided(at, book_tiles);
  const i64 split = divided(at, G), g = at - split * G;
  const int count = static_cast<int>(C - c0 < books ? C - c0 : books);
  const int tid = threadIdx.x, threads = blockDim.x, lane = tid % 32;
  const int warp = tid / 32, warps = threads / 32;
  const i64 m0 = m_tile * outputs;
  const i64 end = (split + 1) * split_rows < N ? (split + 1) * split_rows : N;

  for (int i = tid; i < count * K * outputs; i += threads) part[i] = 0;
  for (int i = tid; i < block_rows * max_books / together; i += threads) code[i] = 0;
  // Warps take turns at codebooks; the codes of those a warp adds to together are one word.
  const int turn = lane / warps;
  u8* const own = reinterpret_cast<u8*>(code) +
                  (turn / together * warps + lane % warps) * together + turn % together;
  const bool has_book = lane < count, has_output = m0 + lane < M;
  codes += g * C + c0 + (has_book ? lane : 0);
  grad += g * M + m0 + (has_output ? lane : 0);

  for (i64 n0 = split * split_rows; n0 < end; n0 += block_rows) {
    const int rows = static_cast<int>(end - n0 < block_rows ? end - n0 : block_rows);
    __syncthreads();
#pragma unroll 1
    for (int first = warp; first < rows; first += 2 * together * warps) {
      typename X::Raw value[2 * together];
      int k[2 * together];
#pragma unroll
      for (int j = 0; j < 2 * together; j++) {
        const int r = first + j * warps < rows ? first + j * warps : first;
        value[j] = grad[(n0 + r) * G * M];
        k[j] = codes[(n0 + r) * G * C];
      }
#pragma unroll
      for (int j = 0; j < 2 * together; j++) {
        const int r = first + j * warps;
        if (r >= rows) continue;
        tile[r * outputs + lane] = has_output ? X::value(value[j]) : 0.f;
        if (has_book) own[r * max_books] = static_cast<u8>(k[j] < K ? k[j] : K - 1);
      }
    }
    __syncthreads();
    for (int c = warp; c < count; c += together * warps) {
      float* entries[together];
#pragma unroll
      for (int j = 0; j < together; j++) {  // past the last book nothing is stored
        const int at = c + j * warps < count ? c + j * warps : c;
        entries[j] = part + at * K * outputs + lane;
      }
      const u32* four = code + c / (together * warps) * warps + warp;
#pragma unroll 1
      for (int first = 0; first < rows; first += together) {
        u32 word[together];
        float value[together];
#pragma unroll
        for (int i = 0; i < together; i++) {
          word[i] = four[(first + i) * (max_books / together)];
          value[i] = tile[(first + i) * outputs + lane];
        }
#pragma unroll
        for (int i = 0; i < together; i++) {
          if (first + i >= rows) break;
          float sum[together];
#pragma unroll
          for (int j = 0; j < together; j++) {
            sum[j] = entries[j][(word[i] >> (8 * j) & 0xff) * outputs] + value[i];
          }
#pragma unroll
          for (int j = 0; j < together; j++) {
            if (c + j * warps < count) entries[j][(word[i] >> (8 * j) & 0xff) * outputs] = sum[j];
          }
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
