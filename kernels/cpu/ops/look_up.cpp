// The look-ups of an inference layer alone, on codes packed beforehand: what the layer's inner loop
// reaches of the shuffle port's limit. For benchmarks; layers call tile_sums from tree_layer.cpp.
// Reference: accumulate_reference in tests/oracles/lookup.py.
#include "../packed.h"

HALUT_BEGIN

int64_t packed_code_bytes(int64_t N, int64_t C) {
  return (N + tile_rows - 1) / tile_rows * (tile_rows / code_rows) * code_stride(C);
}

// codes [N, C] of one group; rows and codebooks that fill up have code 0, whose entries are zero
// where a codebook fills up and whose sums are not written where a row does.
void pack_codes(const uint8_t* codes, uint8_t* packed, int64_t N, int64_t C) {
  for (int64_t i = 0; i < packed_code_bytes(N, C); i++)
    packed[i] = static_cast<uint8_t>(16 * (i % quad));
  for (int64_t n = 0; n < N; n++)
    for (int64_t c = 0; c < C; c++) {
      const int64_t line = n / code_rows * code_stride(C) + c / quad * 64;
      packed[line + n % code_rows * quad + c % quad] =
          static_cast<uint8_t>(codes[n * C + c] + 16 * (c % quad));
    }
}

// Sums int32 [N, M] of a packed table; out null: computed and thrown away.
void look_up(const uint8_t* codes, const uint8_t* packed, int32_t* out, int64_t N, int64_t C,
             int64_t M) {
  alignas(64) int32_t sums[4][64];
  const int64_t tiles = (N + tile_rows - 1) / tile_rows;
  const int64_t step = tile_rows / code_rows * code_stride(C);
  for (int64_t outputs = 0; outputs < output_tiles(M); outputs++) {
    const uint8_t* table = packed + sizeof(PackedHeader) + outputs * tile_bytes(C);
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t rows = N - tile * tile_rows < tile_rows ? N - tile * tile_rows : tile_rows;
      const int64_t groups = (rows + 15) / 16;
      tile_sums(codes + tile * step, table, C, groups, Soon::share(table, C, tile, tiles), sums);
      __asm__ volatile("" : : "r"(&sums[0][0]) : "memory");  // they count as read
      if (!out) continue;
      for (int64_t m = outputs * 4; m < M && m < outputs * 4 + 4; m++)
        for (int64_t j = 0; j < rows; j++) out[(tile * tile_rows + j) * M + m] = sums[m % 4][j];
    }
  }
}

HALUT_END
