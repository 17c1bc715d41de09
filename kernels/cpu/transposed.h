// Planes of a block of a map that lies by pixel: 16 pixels and 16 channels at a time change places.
#pragma once

#include "layer_blocks.h"

HALUT_BEGIN
namespace {

// Way direct: where pixel (first image, channel 0, first output row) of the block lies.
struct Planes {
  int64_t data;  // address
  int64_t stride_b, stride_c;
};

// Bytes of an element of a map of floats or bytes.
inline int64_t cell_bytes(const View& x) {
  return x.dtype == static_cast<int64_t>(Dtype::f32) ? 4 : 1;
}

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1);
}

// Four times the same perfect shuffle of the rows' bytes.
inline void transpose16_bytes(__m128i* r) {
#pragma GCC unroll 4
  for (int round = 0; round < 4; round++) {
    __m128i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      t[2 * i] = _mm_unpacklo_epi8(r[i], r[i + 8]);
      t[2 * i + 1] = _mm_unpackhi_epi8(r[i], r[i + 8]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = t[i];
  }
}

struct Transposed {
  const View& x;
  const Block& block;
  int64_t top, rows;  // input rows the block reads
  char* storage;

  Transposed(const View& view, const Layout& layout, const Block& of)
      : x(view), block(of), storage(nullptr) {
    top = larger(of.oy + layout.q_top, 0);
    rows = larger(smaller(of.oy + of.rows + layout.q_bottom, x.H) - top, 0);
  }

  size_t bytes() const {
    return static_cast<size_t>(cell_bytes(x) * block.images * x.C * rows * x.W);
  }
  int64_t groups() const { return (rows * x.W + 15) / 16; }
  int64_t tasks() const { return block.images * groups(); }

  Planes planes() const {
    const int64_t pixels = rows * x.W;
    const char* first = storage + cell_bytes(x) * (block.oy - top) * x.W;
    return Planes{reinterpret_cast<int64_t>(first), x.C * pixels, pixels};
  }

  // 16 pixels, all channels.
  void operator()(int64_t task) const {
    const int64_t b = task / groups(), pixel = task % groups() * 16, pixels = rows * x.W;
    const int64_t from = (block.image + b) * x.stride_b + (top * x.W + pixel) * x.C;
    const int64_t to = b * x.C * pixels + pixel, count = smaller(16, pixels - pixel);
    for (int64_t c = 0; c < x.C; c += 16) {
      const int64_t channels = smaller(16, x.C - c);
      if (cell_bytes(x) == 4)
        move_floats(from + c, to + c * pixels, count, channels);
      else
        move_bytes(from + c, to + c * pixels, count, channels);
    }
  }

  void move_floats(int64_t at, int64_t to, int64_t count, int64_t channels) const {
    const float* from = reinterpret_cast<const float*>(x.data) + at;
    float* plane = reinterpret_cast<float*>(storage) + to;
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
      r[i] = _mm512_maskz_loadu_epi32(i < count ? first_lanes(channels) : 0, from + i * x.C);
    transpose16(r);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
      if (i < channels)
        _mm512_mask_storeu_epi32(plane + i * rows * x.W, first_lanes(count), r[i]);
  }

  void move_bytes(int64_t at, int64_t to, int64_t count, int64_t channels) const {
    const int8_t* from = reinterpret_cast<const int8_t*>(x.data) + at;
    char* plane = storage + to;
    __m128i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
      r[i] = _mm_maskz_loadu_epi8(i < count ? first_lanes(channels) : 0, from + i * x.C);
    transpose16_bytes(r);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
      if (i < channels) _mm_mask_storeu_epi8(plane + i * rows * x.W, first_lanes(count), r[i]);
  }
};
#endif

}  // namespace
HALUT_END
