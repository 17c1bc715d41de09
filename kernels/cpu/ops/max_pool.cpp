// Max pooling of uint8 maps; what lies outside of a map counts as zero, the least there is.
// Reference: max_pool_torch in halut/ops/integer/max_pool.py.
//
// Rows are pooled down the columns first, then along the row: by pixel all channels at once. A row by
// pixel leaves as it is, or by plane.
#include <cstring>

#include "../transposed.h"

HALUT_BEGIN
namespace {

inline uint8_t most(uint8_t a, uint8_t b) { return a > b ? a : b; }

inline void take_most(uint8_t* __restrict to, const uint8_t* __restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = most(to[i], from[i]);
}

// The kernel rows of output row oy that lie inside: from <= i < to.
struct Span {
  int64_t from, to;
  Span(int64_t first, int64_t step, int64_t count, int64_t size) : from(0), to(count) {
    while (from < count && first + from * step < 0) from++;
    while (to > from && first + (to - 1) * step >= size) to--;
  }
};

// Row oy of image b: [OW][C]; `line`: W * C bytes.
void pool_pixels(const View& x, int64_t b, int64_t oy, uint8_t* line, uint8_t* row) {
  const uint8_t* image = reinterpret_cast<const uint8_t*>(x.data) + b * x.stride_b;
  const int64_t y = oy * x.sh - x.top;
  const Span down(y, x.dh, x.kh, x.H);
  memset(line, 0, static_cast<size_t>(x.W * x.C));
  for (int64_t i = down.from; i < down.to; i++)
    take_most(line, image + (y + i * x.dh) * x.stride_h, x.W * x.C);
  memset(row, 0, static_cast<size_t>(x.OW * x.C));
  for (int64_t ox = 0; ox < x.OW; ox++) {
    const int64_t z = ox * x.sw - x.left;
    const Span along(z, x.dw, x.kw, x.W);
    for (int64_t j = along.from; j < along.to; j++)
      take_most(row + ox * x.C, line + (z + j * x.dw) * x.C, x.C);
  }
}

// Row [OW][C] to the planes of an image, `plane` elements apart.
void spread(const uint8_t* row, uint8_t* to, int64_t OW, int64_t C, int64_t plane) {
  int64_t c = 0;
#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
  for (; c < C; c += 16)
    for (int64_t ox = 0; ox < OW; ox += 16) {
      const int64_t channels = smaller(16, C - c), count = smaller(16, OW - ox);
      __m128i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        r[i] = _mm_maskz_loadu_epi8(i < count ? first_lanes(channels) : 0, row + (ox + i) * C + c);
      transpose16_bytes(r);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        if (i < channels)
          _mm_mask_storeu_epi8(to + (c + i) * plane + ox, first_lanes(count), r[i]);
    }
#else
  for (; c < C; c++)
    for (int64_t ox = 0; ox < OW; ox++) to[c * plane + ox] = row[ox * C + c];
#endif
}

// Row oy of channel c of image b; `line`: W bytes.
void pool_plane(const View& x, int64_t b, int64_t c, int64_t oy, uint8_t* line, uint8_t* to) {
  const uint8_t* plane =
      reinterpret_cast<const uint8_t*>(x.data) + b * x.stride_b + c * x.stride_c;
  const int64_t y = oy * x.sh - x.top;
  const Span down(y, x.dh, x.kh, x.H);
  memset(line, 0, static_cast<size_t>(x.W));
  for (int64_t i = down.from; i < down.to; i++)
    take_most(line, plane + (y + i * x.dh) * x.stride_h, x.W);
  for (int64_t ox = 0; ox < x.OW; ox++) {
    const int64_t z = ox * x.sw - x.left;
    const Span along(z, x.dw, x.kw, x.W);
    uint8_t value = 0;
    for (int64_t j = along.from; j < along.to; j++) value = most(value, line[z + j * x.dw]);
    to[ox] = value;
  }
}

}  // namespace

// channels_last: channels of x are neighbors, else the pixels of a row are. contiguous: out is
// [B, C, OH, OW], else [B, OH, OW, C]; x by plane leaves by plane.
int max_pool(const View& x, bool channels_last, uint8_t* out, bool contiguous, int threads) {
  int worst = 0;
  const int64_t plane = x.OH * x.OW;
#pragma omp parallel for num_threads(threads) if (threads > 1) reduction(max : worst)
  for (int64_t i = 0; i < x.B * x.OH; i++) {
    const int64_t b = i / x.OH, oy = i % x.OH;
    const int64_t size = channels_last ? (x.OW + x.W) * x.C : x.W;
    uint8_t* row = static_cast<uint8_t*>(thread_storage(0, static_cast<size_t>(size)));
    if (!row) {
      worst = static_cast<int>(Status::no_memory);
      continue;
    }
    uint8_t* image = out + b * x.C * plane;
    if (!channels_last) {
      for (int64_t c = 0; c < x.C; c++)
        pool_plane(x, b, c, oy, row, image + c * plane + oy * x.OW);
    } else if (contiguous) {
      pool_pixels(x, b, oy, row, row + x.W * x.C);
      spread(row + x.W * x.C, image + oy * x.OW, x.OW, x.C, plane);
    } else {
      pool_pixels(x, b, oy, row, image + oy * x.OW * x.C);
    }
  }
  return worst;
}

HALUT_END
