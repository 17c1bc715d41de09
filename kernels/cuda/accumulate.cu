// y[n, g, m] = sum_c table[g, c, codes[n, g, c], m], for int8 tables exactly and, if asked for,
// through y = max(sum * scale[m] + bias[m] + residual, low) to float32, float16, bfloat16, int8 or
// uint8, in rows or in planes. References: accumulate_reference in halut/ops/lookup.py, the formula's
// `scaled` in halut/ops/answer.py.
//
// LANES threads span a tile of the outputs with 16 bytes each, so that the threads that read one
// table row share its code and eight of them read all banks once. The staged kernels double-buffer
// slices of the table in shared memory by asynchronous copies, for 128 and more rows per block; the
// direct ones read the table through the caches: for few rows, and where K rows of a codebook are
// more than a block would use.
//
// int8: of a word of four biased bytes, A sums the word and H its odd bytes, 16 bits apart. Then
// A - (H << 8) holds the sums of the even bytes: four entries take three operations. Bytes being at
// most 255, 257 codebooks fit before the halves overflow.
#include "device.cuh"

namespace {

constexpr int threads = 256;
constexpr int stage_bytes = 16384;
constexpr int stage_books = 8;
constexpr int code_pitch = stage_books + 4;  // three words: rows of a warp lie in different banks
constexpr int exact_books = 256;

struct Output {
  void* y;
  const float* scale;  // [G * M], or null: the sums themselves
  const float* bias;
  float low;
  int dtype;
  i64 plane;             // 0: y [N, G * M]; else y [N / plane, G * M, plane]
  const void* residual;  // laid out like y, times residual_scale; or null
  float residual_scale;
  int residual_dtype;
};

struct Shape {
  i64 N, G, C, K, M;
};

// A thread's 16 bytes of a table row, in words.
struct Vector {
  u32 word[4];
};

DEVICE Vector vector_at(const u8* p) {
  const uint4 v = *reinterpret_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}

// 16 bytes of which `valid` exist, zeros behind; `wide`: the address is a multiple of 16.
DEVICE Vector vector_of(const u8* p, int valid, bool wide) {
  if (wide && valid >= 16) return vector_at(p);
  Vector v = {{0, 0, 0, 0}};
#pragma unroll
  for (int i = 0; i < 16; i++) {
    if (i < valid) v.word[i / 4] |= static_cast<u32>(p[i]) << (8 * (i % 4));
  }
  return v;
}

// ---- sums of one row's 16 bytes

struct Int8Sums {  // of at most exact_books entries
  static constexpr int size = 1, entries = 16;
  u32 A[4], H[4];
  DEVICE void clear() {
#pragma unroll
    for (int q = 0; q < 4; q++) A[q] = H[q] = 0;
  }
  DEVICE void add(const Vector& v) {
#pragma unroll
    for (int q = 0; q < 4; q++) {
      const u32 biased = v.word[q] ^ 0x80808080u;
      A[q] += biased;
      H[q] += __byte_perm(biased, 0, 0x4341);
    }
  }
  // Sum of byte i over `added` entries.
  DEVICE int sum(int i, int added) const {
    const u32 even = A[i / 4] - (H[i / 4] << 8);
    const u32 pair = i % 2 ? H[i / 4] : even;
    return static_cast<int>(i % 4 < 2 ? pair & 0xffff : pair >> 16) - 128 * added;
  }
};

struct WideSums {  // of any number of entries: Int8Sums, emptied in time
  static constexpr int size = 1, entries = 16;
  Int8Sums part;
  int total[16];
  DEVICE void clear() {
    part.clear();
#pragma unroll
    for (int i = 0; i < 16; i++) total[i] = 0;
  }
  DEVICE void add(const Vector& v) { part.add(v); }
  DEVICE void flush(int added) {
#pragma unroll
    for (int i = 0; i < 16; i++) total[i] += part.sum(i, added);
    part.clear();
  }
  DEVICE int sum(int i, int) const { return total[i]; }
};

template <class E>
struct FloatSums {
  static constexpr int size = sizeof(typename E::Raw), entries = 16 / size;
  float total[entries];
  DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < entries; i++) total[i] = 0;
  }
  DEVICE void add(const Vector& v) {
#pragma unroll
    for (int i = 0; i < entries; i++) {
      if (size == 4) {
        total[i] += __uint_as_float(v.word[i % 4]);
      } else {
        total[i] += E::value(static_cast<typename E::Raw>(v.word[i / 2 % 4] >> (16 * (i % 2))));
      }
    }
  }
  DEVICE float sum(int i, int) const { return total[i]; }
};

// ---- output

// Stores one sum, given by its bits, as output o of row n: y = max(sum * scale + bias + residual,
// low). No contraction: the bits are those of the CPU's kernels.
template <class Sums>
DEVICE void store(const Output& out, i64 index, i64 o, u32 bits) {
  if (out.dtype == int32) {
    static_cast<u32*>(out.y)[index] = bits;
    return;
  }
  float y = Sums::size == 1 ? static_cast<float>(static_cast<int>(bits)) : __uint_as_float(bits);
  if (out.scale) {
    y = __fadd_rn(__fmul_rn(y, out.scale[o]), out.bias[o]);
    if (out.residual) {
      const float r = load_as(out.residual, index, out.residual_dtype);
      y = __fadd_rn(y, __fmul_rn(r, out.residual_scale));
    }
    y = fmaxf(y, out.low);
  }
  store_as(out.y, index, out.dtype, y);
}

// Where output o of row n lies.
DEVICE i64 place(const Output& out, i64 n, i64 o, i64 outputs) {
  if (!out.plane) return n * outputs + o;
  const i64 b = divided(n, out.plane);
  return (b * outputs + o) * out.plane + n - b * out.plane;
}

DEVICE u32 bits_of(int sum) { return static_cast<u32>(sum); }
DEVICE u32 bits_of(float sum) { return __float_as_uint(sum); }

DEVICE void flush(WideSums& sums, int added) { sums.flush(added); }
template <class Sums>
DEVICE void flush(Sums&, int) {}

// ---- staged: slices of the table in shared memory

// Copies `rows` table rows of `stride` bytes, of which the tile takes at most LANES * 16, `valid`
// of them in existence. `unit`: bytes that addresses are a multiple of, 16, 4 or 1.
template <int LANES>
DEVICE void stage_table(u8* to, const u8* from, i64 stride, int rows, int valid, int unit) {
  for (int i = threadIdx.x; i < rows * LANES; i += threads) {
    const int row = i / LANES, at = i % LANES * 16;
    const int left = valid - at < 0 ? 0 : valid - at > 16 ? 16 : valid - at;
    const u8* source = from + row * stride + (left ? at : 0);
    if (unit == 16) {
      copy_async<16>(to + i * 16, source, left);
    } else if (unit == 4) {
#pragma unroll
      for (int b = 0; b < 16; b += 4) {
        const int part = left - b < 0 ? 0 : left - b > 4 ? 4 : left - b;
        copy_async<4>(to + i * 16 + b, source + (part ? b : 0), part);
      }
    } else {
      const Vector v = vector_of(source, left, false);
      *reinterpret_cast<uint4*>(to + i * 16) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
    }
  }
}

// Codes of the block's rows for `books` codebooks; what is no code becomes one.
DEVICE void stage_codes(u8* to, const u8* codes, i64 row_codes, int rows, int books, int K) {
  for (int i = threadIdx.x; i < rows * stage_books; i += threads) {
    const int r = i / stage_books, c = i % stage_books;
    if (c < books) {
      const int code = codes[r * row_codes + c];
      to[r * code_pitch + c] = static_cast<u8>(code < K ? code : K - 1);
    }
  }
}

// PER rows per thread; blocks of PER * threads / LANES rows.
template <class Sums, int LANES, int PER>
DEVICE void staged(const u8* codes, const u8* table, const Output& out, const Shape& s) {
  constexpr int slots = threads / LANES, block_rows = PER * slots, width = LANES * 16;
  SHARED(u8, tables, 2 * stage_bytes);
  SHARED(u8, code, 2 * block_rows * code_pitch);
  const int K = static_cast<int>(s.K);
  const i64 row_bytes = s.M * Sums::size;
  const i64 m_tiles = (row_bytes + width - 1) / width;
  const i64 tile = divided(blockIdx.x, s.G * m_tiles);
  const i64 column = blockIdx.x - tile * s.G * m_tiles;
  const i64 g = divided(column, m_tiles);
  const i64 first = (column - g * m_tiles) * width;  // byte of the table's rows
  const i64 n0 = tile * block_rows;
  const int rows = static_cast<int>(s.N - n0 < block_rows ? s.N - n0 : block_rows);
  const int valid = static_cast<int>(row_bytes - first < width ? row_bytes - first : width);
  const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES;
  const int books = K * width * stage_books <= stage_bytes ? stage_books : stage_books / 2;
  const u64 address = reinterpret_cast<u64>(table) | static_cast<u64>(row_bytes);
  const int unit = address % 16 == 0 ? 16 : address % 4 == 0 ? 4 : 1;
  table += g * s.C * s.K * row_bytes + first;
  codes += n0 * s.G * s.C + g * s.C;

  Sums sums[PER];
#pragma unroll
  for (int p = 0; p < PER; p++) sums[p].clear();

  const int stages = static_cast<int>((s.C + books - 1) / books);
  auto stage = [&](int at) {
    const i64 c = static_cast<i64>(at) * books;
    const int count = static_cast<int>(s.C - c < books ? s.C - c : books);
    stage_table<LANES>(tables + at % 2 * stage_bytes, table + c * K * row_bytes, row_bytes,
                       count * K, valid, unit);
    stage_codes(code + at % 2 * block_rows * code_pitch, codes + c, s.G * s.C, rows, count, K);
    copy_commit();
  };
  stage(0);
  int added = 0;
  for (int at = 0; at < stages; at++) {
    if (at + 1 < stages) {
      stage(at + 1);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    const u8* slice = tables + at % 2 * stage_bytes + lane * 16;
    const u8* chosen = code + at % 2 * block_rows * code_pitch + slot * code_pitch;
    const i64 c0 = static_cast<i64>(at) * books;
    const int count = static_cast<int>(s.C - c0 < books ? s.C - c0 : books);
    for (int c = 0; c < count; c += 4) {
      u32 word[PER];
#pragma unroll
      for (int p = 0; p < PER; p++) {  // rows past the end have no codes: any entry will do
        const u32 four = *reinterpret_cast<const u32*>(chosen + p * slots * code_pitch + c);
        word[p] = slot + p * slots < rows ? four : 0;
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (c + j < count) {
#pragma unroll
          for (int p = 0; p < PER; p++) {
            const int k = (word[p] >> (8 * j)) & 0xff;
            sums[p].add(vector_at(slice + ((c + j) * K + k) * width));
          }
        }
      }
    }
    added += count;
    if (added + stage_books > exact_books) {
#pragma unroll
      for (int p = 0; p < PER; p++) flush(sums[p], added);
      if (sizeof(Sums) == sizeof(WideSums)) added = 0;
    }
    __syncthreads();
  }
#pragma unroll
  for (int p = 0; p < PER; p++) flush(sums[p], added);

  // Through shared memory, four outputs of every lane at a time, so that neighbouring threads store
  // neighbouring answers, whether those are outputs of a row or rows of a plane.
  constexpr int pitch = LANES * 4 + 1;
  static_assert(block_rows * pitch * 4 <= 2 * stage_bytes, "shared memory of the turned sums");
  u32* turned = reinterpret_cast<u32*>(tables);
  const i64 o = g * s.M + first / Sums::size, outputs = s.G * s.M;
#pragma unroll 1
  for (int q = 0; q < Sums::entries / 4; q++) {
    __syncthreads();
#pragma unroll
    for (int part = 0; part < Sums::entries / 4; part++) {  // registers have no run-time index
      if (part != q) continue;
#pragma unroll
      for (int p = 0; p < PER; p++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          turned[(slot + p * slots) * pitch + lane * 4 + j] =
              bits_of(sums[p].sum(4 * part + j, added));
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * LANES * 4; i += threads) {
      const int r = out.plane ? i % rows : i / (LANES * 4);
      const int at = out.plane ? i / rows : i % (LANES * 4);
      const int output = at / 4 * Sums::entries + 4 * q + at % 4;
      if (output * Sums::size < valid) {
        store<Sums>(out, place(out, n0 + r, o + output, outputs), o + output, turned[r * pitch + at]);
      }
    }
  }
}

// ---- direct: the table through the caches

template <class Sums>
DEVICE void direct(const u8* codes, const u8* table, const Output& out, const Shape& s) {
  constexpr int LANES = 8, slots = threads / LANES, width = LANES * 16;
  const i64 row_bytes = s.M * Sums::size;
  const i64 m_tiles = (row_bytes + width - 1) / width;
  const i64 tile = divided(blockIdx.x, s.G * m_tiles);
  const i64 column = blockIdx.x - tile * s.G * m_tiles;
  const i64 g = divided(column, m_tiles);
  const i64 first = (column - g * m_tiles) * width + threadIdx.x % LANES * 16;
  const i64 n = tile * slots + threadIdx.x / LANES;
  if (n >= s.N || first >= row_bytes) return;
  const int valid = static_cast<int>(row_bytes - first < 16 ? row_bytes - first : 16);
  const bool wide = (reinterpret_cast<u64>(table) | static_cast<u64>(row_bytes)) % 16 == 0;
  codes += (n * s.G + g) * s.C;
  table += g * s.C * s.K * row_bytes + first;
  Sums sums;
  sums.clear();
  int added = 0;
  for (i64 c = 0; c < s.C; c++) {
    const i64 code = codes[c] < s.K ? codes[c] : s.K - 1;
    sums.add(vector_of(table + (c * s.K + code) * row_bytes, valid, wide));
    if (++added == exact_books) {
      flush(sums, added);
      added = 0;
    }
  }
  flush(sums, added);
  const i64 o = g * s.M + first / Sums::size, step = out.plane ? out.plane : 1;
  const i64 at = place(out, n, o, s.G * s.M);
#pragma unroll
  for (int i = 0; i < Sums::entries; i++) {
    if (i * Sums::size < valid) {
      store<Sums>(out, at + i * step, o + i, bits_of(sums.sum(i, added)));
    }
  }
}

}  // namespace

#define ARGUMENTS                                                                              \
  const u8 *codes, const u8 *table, void *y, const float *scale, const float *bias, float low, \
      int dtype, i64 plane, const void *residual, float residual_scale, int residual_dtype,     \
      i64 N, i64 G, i64 C, i64 K, i64 M
#define OUTPUT \
  { y, scale, bias, low, dtype, plane, residual, residual_scale, residual_dtype }
#define STAGED(name, Sums, LANES, PER, BLOCKS)                                         \
  extern "C" __global__ void __launch_bounds__(threads, BLOCKS) name(ARGUMENTS) {      \
    staged<Sums, LANES, PER>(codes, table, OUTPUT, {N, G, C, K, M}); \
  }
#define DIRECT(name, Sums)                                               \
  extern "C" __global__ void __launch_bounds__(threads, 2) name(ARGUMENTS) { \
    direct<Sums>(codes, table, OUTPUT, {N, G, C, K, M}); \
  }

STAGED(accumulate_i8_8, Int8Sums, 8, 4, 2)
STAGED(accumulate_i8_4, Int8Sums, 4, 4, 2)
STAGED(accumulate_i8_2, Int8Sums, 2, 4, 2)
STAGED(accumulate_i8_8_wide, WideSums, 8, 2, 2)
STAGED(accumulate_f32_8, FloatSums<Float>, 8, 4, 3)
STAGED(accumulate_f16_8, FloatSums<Half>, 8, 4, 3)
STAGED(accumulate_bf16_8, FloatSums<Bfloat>, 8, 4, 3)
DIRECT(accumulate_i8_direct, WideSums)
DIRECT(accumulate_f32_direct, FloatSums<Float>)
DIRECT(accumulate_f16_direct, FloatSums<Half>)
DIRECT(accumulate_bf16_direct, FloatSums<Bfloat>)
