// A layer whose codes are known: look-up, exact integer sums, scale, bias and clamp. K <= 16.
// Reference: code_layer_reference in tests/oracles/layer.py.
//
// Codes come as the encoders leave them, [N, G * C] bytes; each block's are laid out anew as the
// level's shuffle wants them (packed.h).
#include "../layer_run.h"

HALUT_BEGIN
namespace {

// A task lays out the codes of one line's worth of rows (code_rows), all groups.
struct GivenCodes {
  const Problem& p;
  const uint8_t* codes;  // [N, G * C]

  int64_t tasks(const Work& work) const { return work.grid.groups * 16 / code_rows; }

  Status operator()(const Work& work, int64_t task) const {
    const int64_t row = task * code_rows, first = work.block.image + row;
    const int64_t rows = smaller(code_rows, work.block.images - row), GC = p.G * p.C;
    for (int64_t g = 0; g < p.G; g++) {
      uint8_t* out = work.codes + g * work.group_codes(p.C) + task * code_stride(p.C);
      if (rows > 0) lay_out(codes + first * GC + g * p.C, GC, rows, out);
    }
    return Status::done;
  }

#if defined(HALUT_IS_avx512vbmi)
  // Words of four codes, 16 rows by 16 lines at a time.
  void lay_out(const uint8_t* from, int64_t stride, int64_t rows, uint8_t* out) const {
    const __m512i shifts = _mm512_set1_epi32(0x30201000), most = _mm512_set1_epi8(15);
    for (int64_t c = 0; c < p.C; c += 64) {
      const int64_t left = smaller(64, p.C - c);
      const __mmask64 used = left == 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        const __m512i row = _mm512_maskz_loadu_epi8(i < rows ? used : 0, from + i * stride + c);
        r[i] = _mm512_add_epi8(_mm512_min_epu8(row, most), shifts);
      }
      transpose16(r);
      for (int i = 0; i < 16 && 4 * i < left; i++) _mm512_store_si512(out + (c / 4 + i) * 64, r[i]);
    }
  }
#else
  void lay_out(const uint8_t* from, int64_t stride, int64_t rows, uint8_t* out) const {
    for (int64_t c = 0; c < p.C; c++)
      for (int64_t i = 0; i < 64; i++) {
        const uint8_t code = i < rows ? from[i * stride + c] : 0;
        out[c * 64 + i] = code < 15 ? code : 15;
      }
  }
#endif
};

}  // namespace

// Rows n of `images` images of `plane` positions; dtype i32: the sums as they are.
int code_layer(const uint8_t* codes, const uint8_t* packed, const Target& to, int64_t N,
               int64_t plane, int64_t G, int64_t C, int64_t K, int64_t M, int threads) {
  PackedHeader header;
  memcpy(&header, packed, sizeof header);
  if (!fits(header, G, C, K, M)) return static_cast<int>(Status::other_table);
  View x{};
  x.B = N;
  x.C = x.H = x.W = x.kh = x.kw = x.sh = x.sw = x.dh = x.dw = x.OH = x.OW = 1;
  const Layout layout(x);
  const Problem p{x, layout, Way::rows, packed + sizeof header, G, C, K, M,
                  Output{to, G * M, plane}};
  return run_layer(p, GivenCodes{p, codes}, threads);
}

HALUT_END
