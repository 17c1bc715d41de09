// Tree codes of one line (see packed.h) of codebooks, from taps that lie one float per row.
//
// A codebook's K - 1 <= 15 thresholds stand in one array at their heap index, root at 1: a row's
// node starts at 1 and becomes 2 node + (x > t), and after `depth` levels its code is node - K. With
// 16 lanes the array is one register, and a permute finds the thresholds of 16 rows.
#pragma once

#include "packed.h"

HALUT_BEGIN
namespace {

template <class Cell>
struct TreeLine {
  const Cell* taps[quad][4];       // taps[codebook][level][row]
  const uint16_t* masks[quad][4];  // if masked: bit j of [row / 16] clear: 0 in place of the tap
  Cell thresholds[quad][16];
  int depth;
  bool masked;
};

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
template <int depth, bool masked>
inline __m512i nodes16(const float* const* taps, const uint16_t* const* masks, __m512 t,
                       int64_t row) {
  const __m512i one = _mm512_set1_epi32(1);
  __m512i node = one;
#pragma GCC unroll 4
  for (int level = 0; level < depth; level++) {
    const __m512 x = masked ? _mm512_maskz_loadu_ps(masks[level][row / 16], taps[level] + row)
                            : _mm512_loadu_ps(taps[level] + row);
    const __mmask16 right =
        _mm512_cmp_ps_mask(x, _mm512_permutexvar_ps(node, t), _CMP_GT_OQ);
    node = _mm512_add_epi32(node, node);
    node = _mm512_mask_or_epi32(node, right, node, one);
  }
  return node;
}
#endif

#if defined(HALUT_IS_avx512vbmi)
template <int depth, bool masked>
void encode_line(const TreeLine<float>& line, uint8_t* codes, int64_t stride, int64_t rows) {
  // Byte j of a word becomes node - K + 16 j: one addition for the four, carries included.
  uint32_t shift = 0;
  for (uint32_t j = 0; j < 4; j++) shift += (16 * j - (1u << depth)) << (8 * j);
  const __m512i shifts = _mm512_set1_epi32(static_cast<int>(shift));
  __m512 t[4];
  for (int j = 0; j < 4; j++) t[j] = _mm512_loadu_ps(line.thresholds[j]);
  for (int64_t row = 0; row < rows; row += 16, codes += stride) {
    const __m512i a = nodes16<depth, masked>(line.taps[0], line.masks[0], t[0], row);
    const __m512i b = nodes16<depth, masked>(line.taps[1], line.masks[1], t[1], row);
    const __m512i c = nodes16<depth, masked>(line.taps[2], line.masks[2], t[2], row);
    const __m512i d = nodes16<depth, masked>(line.taps[3], line.masks[3], t[3], row);
    const __m512i low = _mm512_add_epi32(a, _mm512_slli_epi32(b, 8));
    const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(c, 16), _mm512_slli_epi32(d, 24));
    _mm512_store_si512(codes, _mm512_add_epi32(_mm512_add_epi32(low, high), shifts));
  }
}
#elif defined(HALUT_IS_avx512)
template <int depth, bool masked>
void encode_line(const TreeLine<float>& line, uint8_t* codes, int64_t stride, int64_t rows) {
  const __m512 t = _mm512_loadu_ps(line.thresholds[0]);
  const __m512i K = _mm512_set1_epi32(1 << depth);
  for (int64_t row = 0; row < rows; row += 64, codes += stride)
#pragma GCC unroll 4
    for (int part = 0; part < 64; part += 16) {
      const __m512i node = 
          nodes16<depth, masked>(line.taps[0], line.masks[0], t, row + part);
      _mm_store_si128(reinterpret_cast<__m128i*>(codes + part),
                      _mm512_cvtepi32_epi8(_mm512_sub_epi32(node, K)));
    }
}
#elif defined(HALUT_IS_avx2)
template <int depth>
inline __m256i nodes8(const float* const* taps, __m256 low, __m256 high, int64_t row) {
  __m256i node = _mm256_set1_epi32(1);
#pragma GCC unroll 4
  for (int level = 0; level < depth; level++) {
    const __m256 x = _mm256_loadu_ps(taps[level] + row);
    const __m256 t = _mm256_permutevar8x32_ps(level < 3 ? low : high, node);  // node modulo 8
    const __m256i right = _mm256_castps_si256(_mm256_cmp_ps(x, t, _CMP_GT_OQ));
    node = _mm256_sub_epi32(_mm256_add_epi32(node, node), right);
  }
  return _mm256_sub_epi32(node, _mm256_set1_epi32(1 << depth));
}

template <int depth, bool>
void encode_line(const TreeLine<float>& line, uint8_t* codes, int64_t stride, int64_t rows) {
  const __m256 low = _mm256_loadu_ps(line.thresholds[0]);
  const __m256 high = _mm256_loadu_ps(line.thresholds[0] + 8);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t row = 0; row < rows; row += 64, codes += stride)
    for (int part = 0; part < 64; part += 32) {
      __m256i n[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++)
        n[i] = nodes8<depth>(line.taps[0], low, high, row + part + 8 * i);
      const __m256i words0 = _mm256_packus_epi32(n[0], n[1]);
      const __m256i words1 = _mm256_packus_epi32(n[2], n[3]);
      const __m256i bytes = _mm256_packus_epi16(words0, words1);
      _mm256_store_si256(reinterpret_cast<__m256i*>(codes + part),
                         _mm256_permutevar8x32_epi32(bytes, order));
    }
}
#else
template <int depth, bool>
void encode_line(const TreeLine<float>& line, uint8_t* codes, int64_t stride, int64_t rows) {
  const float* t = line.thresholds[0];
  for (int64_t row = 0; row < rows; row += 64, codes += stride)
    for (int64_t j = 0; j < 64; j++) {
      int node = 1;
      for (int level = 0; level < depth; level++)
        node = 2 * node + (line.taps[0][level][row + j] > t[node]);
      codes[j] = static_cast<uint8_t>(node - (1 << depth));
    }
}
#endif

#if defined(HALUT_IS_avx512) || defined(HALUT_IS_avx512vbmi)
inline __mmask64 goes_right(__m512i x, __m512i t, int8_t) { return _mm512_cmpgt_epi8_mask(x, t); }
inline __mmask64 goes_right(__m512i x, __m512i t, uint8_t) { return _mm512_cmpge_epu8_mask(x, t); }

// The same on bytes, 64 rows at a time; thresholds as byte_threshold makes them.
template <int depth, bool masked, class Byte>
inline __m512i nodes64(const Byte* const* taps, const uint16_t* const* masks, __m512i t,
                       int64_t row) {
  const __m512i one = _mm512_set1_epi8(1);
  __m512i node = one;
#pragma GCC unroll 4
  for (int level = 0; level < depth; level++) {
    uint64_t inside = ~uint64_t{0};
    if (masked) memcpy(&inside, masks[level] + row / 16, sizeof inside);
    const __m512i x = _mm512_maskz_loadu_epi8(inside, taps[level] + row);
    const __mmask64 right = goes_right(x, _mm512_shuffle_epi8(t, node), Byte());
    node = _mm512_add_epi8(node, node);
    node = _mm512_mask_add_epi8(node, right, node, one);
  }
  return node;
}

inline __m512i byte_thresholds(const void* t) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(t)));
}
#endif

#if defined(HALUT_IS_avx512vbmi)
template <int depth, bool masked, class Byte>
void encode_line(const TreeLine<Byte>& line, uint8_t* codes, int64_t stride, int64_t rows) {
  uint32_t shift = 0;
  for (uint32_t j = 0; j < 4; j++) shift += (16 * j - (1u << depth)) << (8 * j);
  const __m512i shifts = _mm512_set1_epi32(static_cast<int>(shift));
  __m512i t[4];
  for (int j = 0; j < 4; j++) t[j] = byte_thresholds(line.thresholds[j]);
  for (int64_t row = 0; row < rows; row += 64, codes += 4 * stride) {
    const __m512i a = nodes64<depth, masked>(line.taps[0], line.masks[0], t[0], row);
    const __m512i b = nodes64<depth, masked>(line.taps[1], line.masks[1], t[1], row);
    const __m512i c = nodes64<depth, masked>(line.taps[2], line.masks[2], t[2], row);
    const __m512i d = nodes64<depth, masked>(line.taps[3], line.masks[3], t[3], row);
    const __m512i ab = _mm512_unpacklo_epi8(a, b), AB = _mm512_unpackhi_epi8(a, b);
    const __m512i cd = _mm512_unpacklo_epi8(c, d), CD = _mm512_unpackhi_epi8(c, d);
    // Lane q of these: rows 16 q + 0 .. 3, 4 .. 7, 8 .. 11, 12 .. 15.
    const __m512i w0 = _mm512_unpacklo_epi16(ab, cd), w1 = _mm512_unpackhi_epi16(ab, cd);
    const __m512i w2 = _mm512_unpacklo_epi16(AB, CD), w3 = _mm512_unpackhi_epi16(AB, CD);
    const __m512i e = _mm512_shuffle_i32x4(w0, w1, 0x88), f = _mm512_shuffle_i32x4(w0, w1, 0xdd);
    const __m512i g = _mm512_shuffle_i32x4(w2, w3, 0x88), h = _mm512_shuffle_i32x4(w2, w3, 0xdd);
    const __m512i groups[4] = {
        _mm512_shuffle_i32x4(e, g, 0x88), _mm512_shuffle_i32x4(f, h, 0x88),
        _mm512_shuffle_i32x4(e, g, 0xdd), _mm512_shuffle_i32x4(f, h, 0xdd)};
    const int64_t left = (rows - row) / 16;
    for (int q = 0; q < 4 && q < left; q++)
      _mm512_store_si512(codes + q * stride, _mm512_add_epi32(groups[q], shifts));
  }
}
#elif defined(HALUT_IS_avx512)
template <int depth, bool masked, class Byte>
void encode_line(const TreeLine<Byte>& line, uint8_t* codes, int64_t stride, int64_t rows) {
  const __m512i t = byte_thresholds(line.thresholds[0]);
  const __m512i K = _mm512_set1_epi8(1 << depth);
  for (int64_t row = 0; row < rows; row += 64, codes += stride)
    _mm512_store_si512(codes, _mm512_sub_epi8(nodes64<depth, masked>(line.taps[0], line.masks[0],
                                                                     t, row),
                                              K));
}
#endif

// The same, row after row, for any float thresholds: where bytes cannot hold them.
template <class Cell>
void encode_line_plainly(const TreeLine<Cell>& line, const float (*thresholds)[16], uint8_t* codes,
                         int64_t stride, int64_t rows) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t j = 0; j < quad; j++) {
      int64_t node = 1;
      for (int level = 0; level < line.depth; level++) {
        const bool out = line.masked && !(line.masks[j][level][row / 16] >> row % 16 & 1);
        const float x = out ? 0.f : static_cast<float>(line.taps[j][level][row]);
        node = 2 * node + (x > thresholds[j][node]);
      }
      codes[row / code_rows * stride + row % code_rows * quad + j] =
          static_cast<uint8_t>(node - (1 << line.depth) + 16 * j);
    }
}

template <int depth, class Cell>
void encode_depth(const TreeLine<Cell>& line, uint8_t* codes, int64_t stride, int64_t rows) {
  if (line.masked)
    encode_line<depth, true>(line, codes, stride, rows);
  else
    encode_line<depth, false>(line, codes, stride, rows);
}

// Rows in whole lines of codes (code_rows).
template <class Cell>
void encode_tree_line(const TreeLine<Cell>& line, uint8_t* codes, int64_t stride, int64_t rows) {
  switch (line.depth) {
    case 1:
      return encode_depth<1>(line, codes, stride, rows);
    case 2:
      return encode_depth<2>(line, codes, stride, rows);
    case 3:
      return encode_depth<3>(line, codes, stride, rows);
    default:
      return encode_depth<4>(line, codes, stride, rows);
  }
}

}  // namespace
HALUT_END
