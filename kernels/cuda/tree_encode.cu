// Codes of hash trees, from rows or straight from an activation map.
// Reference: tree_encode_reference in halut/ops/tree_reference.py.
//
// A block takes 128 rows and as many codebooks as have their thresholds in 8 KiB of shared memory.
// Lanes run along rows where neighbouring rows are neighbours in memory (NCHW maps), so that reads
// coalesce and the walk reads one tree's thresholds; along codebooks otherwise (NHWC, matrices).
#include "device.cuh"

namespace {

constexpr int threads = 256;
constexpr int block_rows = 128;
constexpr int max_thresholds = 2048;
constexpr int max_taps = 192;
constexpr int pitch = 33;  // of the tile of codes, odd against bank conflicts

// columns [GC * depth]: which column of the row level l of codebook c tests; null: c * depth + l.
template <class X, bool BY_ROW>
DEVICE void tree_encode(const View& v, const i64* columns, const float* thresholds, u8* codes,
                        i64 N, i64 GC, int depth) {
  SHARED(float, t, max_thresholds);
  SHARED(Tap, taps, max_taps);
  SHARED(Row, window, block_rows);
  SHARED(u8, tile, block_rows * pitch);
  const int nodes = (1 << depth) - 1;
  const int books = depth <= 6 ? 32 : max_thresholds >> depth;
  const i64 book_tiles = (GC + books - 1) / books;
  const i64 row_tile = divided(blockIdx.x, book_tiles);
  const i64 n0 = row_tile * block_rows;
  const i64 c0 = (blockIdx.x - row_tile * book_tiles) * books;
  const int rows = static_cast<int>(N - n0 < block_rows ? N - n0 : block_rows);
  const int count = static_cast<int>(GC - c0 < books ? GC - c0 : books);
  const int tid = threadIdx.x;

  for (int i = tid; i < count * nodes; i += threads) t[i] = thresholds[c0 * nodes + i];
  for (int i = tid; i < count * depth; i += threads) {
    const i64 column = c0 * depth + i;
    taps[i] = tap_of(v, columns ? columns[column] : column);
  }
  for (int r = tid; r < rows; r += threads) window[r] = row_of(v, n0 + r);
  __syncthreads();

  const typename X::Raw* x = static_cast<const typename X::Raw*>(v.data);
  if (BY_ROW) {
    const int lane = tid % 32;
    Row row[4];
    for (int i = 0; i < 4; i++) row[i] = window[lane + 32 * i < rows ? lane + 32 * i : 0];
    for (int c = tid / 32; c < count; c += threads / 32) {
      u32 code[4] = {0, 0, 0, 0};
      for (int level = 0; level < depth; level++) {
        const Tap tap = taps[c * depth + level];
        const float* nodes_at = t + c * nodes + (1 << level) - 1;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float value = inside(v, row[i], tap) ? X::value(x[row[i].base + tap.offset]) : 0.f;
          code[i] = 2 * code[i] + (value > nodes_at[code[i]]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; i++) tile[(lane + 32 * i) * pitch + c] = static_cast<u8>(code[i]);
    }
    __syncthreads();
    for (int i = tid; i < rows * books; i += threads) {
      const int r = i / books, c = i % books;
      if (c < count) codes[(n0 + r) * GC + c0 + c] = tile[r * pitch + c];
    }
  } else {
    const int c = tid % books;
    if (c >= count) return;
    for (int r = tid / books; r < rows; r += threads / books) {
      const Row row = window[r];
      u32 code = 0;
      for (int level = 0; level < depth; level++) {
        const Tap tap = taps[c * depth + level];
        const float value = inside(v, row, tap) ? X::value(x[row.base + tap.offset]) : 0.f;
        code = 2 * code + (value > t[c * nodes + (1 << level) - 1 + code]);
      }
      codes[(n0 + r) * GC + c0 + c] = static_cast<u8>(code);
    }
  }
}

}  // namespace

#define ENTRY(name, X, BY_ROW)                                                                \
  extern "C" __global__ void __launch_bounds__(threads, 4)                                    \
      name(const View v, const i64* columns, const float* thresholds, u8* codes, i64 N, i64 GC, \
           int depth) {                                                                       \
    tree_encode<X, BY_ROW>(v, columns, thresholds, codes, N, GC, depth);                      \
  }

ENTRY(tree_encode_f32_rows, Float, true)
ENTRY(tree_encode_f16_rows, Half, true)
ENTRY(tree_encode_bf16_rows, Bfloat, true)
ENTRY(tree_encode_i8_rows, Int8, true)
ENTRY(tree_encode_f32_books, Float, false)
ENTRY(tree_encode_f16_books, Half, false)
ENTRY(tree_encode_bf16_books, Bfloat, false)
ENTRY(tree_encode_i8_books, Int8, false)
