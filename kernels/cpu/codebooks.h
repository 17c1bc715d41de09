// Prototypes laid out for comparing a tile of rows with all of them, and the comparison itself.
// Its scores are -dist / 2 for l2, up to a term that is common to all prototypes, and -dist for l1
// and chebyshev; their arithmetic is the same at every level, bit by bit.
#pragma once

#include "tiles.h"

HALUT_BEGIN
namespace {

enum Metric : int64_t { l2 = 0, l1 = 1, chebyshev = 2 };

constexpr int64_t together = 4;  // prototypes compared at once
constexpr int64_t tile_pitch = tile_rows;

inline int64_t padded(int64_t K) { return (K + together - 1) / together * together; }

// The blocks of halut.ops.blocks.Blocks, over all groups.
struct Blocks {
  int64_t D, C, groups;

  int64_t width(int64_t codebook) const { return D / C + (codebook % C < D % C); }
  int64_t start(int64_t codebook) const {
    const int64_t c = codebook % C;
    return codebook / C * D + c * (D / C) + smaller_of(c, D % C);
  }
  int64_t end(int64_t codebook) const { return start(codebook) + width(codebook); }
};

// One codebook: prototypes [padded(K) / 4][width][4] less the origin, the scores' constants
// [padded(K)] (minus infinity behind K), the origin [V]. The origin is the first prototype for l2,
// since distances do not change with it and small numbers keep more digits, and zero otherwise.
struct Codebook {
  float *prototypes, *constants, *origin;

  static int64_t size(int64_t K, int64_t V) { return padded(K) * (V + 1) + V; }

  Codebook(float* memory, int64_t K, int64_t V)
      : prototypes(memory), constants(memory + padded(K) * V), origin(constants + padded(K)) {}

  void fill(const float* from, int64_t K, int64_t V, int64_t width, int64_t metric) {
    for (int64_t v = 0; v < V; v++) origin[v] = metric == l2 ? from[v] : 0;
    for (int64_t k = 0; k < padded(K); k++) {
      float sum = 0;
      for (int64_t v = 0; v < width; v++) {
        const float p = k < K ? from[k * V + v] - origin[v] : 0;
        prototypes[(k / together * width + v) * together + k % together] = p;
        sum += p * p;
      }
      constants[k] = k >= K ? -__builtin_inff() : metric == l2 ? -0.5f * sum : 0;
    }
  }
};

// Codebooks begin .. end in runs of at least `most` whose channels no other cell touches, so that
// cells can be worked on at the same time.
struct Cells {
  Blocks blocks;
  int64_t area;  // columns per channel: kh kw
  int64_t begin, end, most;

  int64_t first_channel(int64_t first) const { return blocks.start(first) / area; }
  int64_t channel_end(int64_t last) const { return (blocks.end(last - 1) + area - 1) / area; }
  int64_t next(int64_t first) const {
    int64_t last = first + 1;
    while (last < end && (last - first < most || blocks.start(last) % area)) last++;
    return last;
  }
  int64_t count() const {
    int64_t found = 0;
    for (int64_t c = begin; c < end; c = next(c)) found++;
    return found;
  }
  // The longest run of codebooks.
  int64_t longest() const {
    int64_t longest = 0;
    for (int64_t c = begin; c < end; c = next(c)) longest = larger_of(longest, next(c) - c);
    return longest;
  }
  // The first codebooks of all cells, and the end: starts [count() + 1].
  void write(int64_t* starts) const {
    for (int64_t c = begin; c < end; c = next(c)) *starts++ = c;
    *starts = end;
  }
  int64_t widest() const {  // channels of the widest cell
    int64_t most = 0;
    for (int64_t c = begin; c < end; c = next(c))
      most = larger_of(most, channel_end(next(c)) - first_channel(c));
    return most;
  }
};

// The columns of a codebook's tile, [width][tile_pitch], less the origin.
inline void read_tile(const Span& s, int64_t tile, const float* planes, int64_t c0, int64_t area,
                      int64_t start, int64_t width, const float* origin, float* out) {
  const float* plane = planes + (start / area - c0) * s.plane;
  int64_t position = start % area;
  for (int64_t v = 0; v < width; v++) {
    read_column(s, tile, plane + s.taps[position], origin[v], out + v * tile_pitch);
    if (++position == area) position = 0, plane += s.plane;
  }
}

// Adds a tile's columns to the planes.
inline void add_tile(const Span& s, int64_t tile, const float* columns, int64_t c0, int64_t area,
                     int64_t start, int64_t width, float* planes) {
  float* plane = planes + (start / area - c0) * s.plane;
  int64_t position = start % area;
  for (int64_t v = 0; v < width; v++) {
    add_column(s, tile, columns + v * tile_pitch, plane + s.taps[position]);
    if (++position == area) position = 0, plane += s.plane;
  }
}

// Scores of 4 prototypes from `k` on, for R vectors of rows: out[4][R].
template <int64_t metric, int R>
inline __attribute__((always_inline)) void score(const float* x, int64_t width,
                                                 const Codebook& codebook, int64_t k,
                                                 floats out[together][R]) {
  const float* p = codebook.prototypes + k * width;
#pragma GCC unroll 4
  for (int i = 0; i < together; i++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) out[i][r] = splat(metric == l2 ? codebook.constants[k + i] : 0);
  for (int64_t v = 0; v < width; v++, p += together) {
    floats inputs[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) inputs[r] = load(x + v * tile_pitch + r * lanes);
#pragma GCC unroll 4
    for (int i = 0; i < together; i++)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        if (metric == l2)
          out[i][r] = fused(inputs[r], splat(p[i]), out[i][r]);
        else if (metric == l1)
          out[i][r] += magnitude(inputs[r] - p[i]);
        else
          out[i][r] = larger(magnitude(inputs[r] - p[i]), out[i][r]);
      }
  }
  if (metric == l2) return;
#pragma GCC unroll 4
  for (int i = 0; i < together; i++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) out[i][r] = codebook.constants[k + i] - out[i][r];
}

}  // namespace
HALUT_END
