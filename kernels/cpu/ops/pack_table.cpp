// The packed form of an int8 table [G, C, K <= 16, M]; see packed.h.
#include <cstring>

#include "../packed.h"

HALUT_BEGIN

bool pack_table(const int8_t* table, uint8_t* packed, int64_t G, int64_t C, int64_t K, int64_t M,
                int64_t bytes) {
  const int64_t T = output_tiles(M);
  const int64_t need = static_cast<int64_t>(sizeof(PackedHeader)) + G * T * tile_bytes(C);
  if (bytes != need) return false;
  const PackedHeader header{packed_magic, packed_layout, G, C, K, M, {0, 0}};
  memcpy(packed, &header, sizeof header);
  uint8_t* out = packed + sizeof header;
  const int fill = packed_layout == 1 ? 0 : 128;
  memset(out, fill, static_cast<size_t>(need) - sizeof header);
  for (int64_t g = 0; g < G; g++)
    for (int64_t c = 0; c < C; c++)
      for (int64_t k = 0; k < K; k++)
        for (int64_t m = 0; m < M; m++) {
          const int64_t tile = (g * T + m / 4) * tile_bytes(C);
          const int64_t entry = ((c / quad * 4 + m % 4) * quad + c % quad) * 16 + k;
          out[tile + entry] = static_cast<uint8_t>(table[((g * C + c) * K + k) * M + m] + fill);
        }
  return true;
}

int64_t packed_bytes(int64_t G, int64_t C, int64_t M) {
  return static_cast<int64_t>(sizeof(PackedHeader)) + G * output_tiles(M) * tile_bytes(C);
}

HALUT_END
