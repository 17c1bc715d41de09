// y[n, g, m] = sum_c table[g, c, codes[n, g, c], m], for int8 tables exactly and, if asked for,
// through y = max(sum * scale[m] + bias[m] + residual, low) to float32, float16, bfloat16, int8 or
// uint8, in rows or in planes. References: accumulate_reference in tests/oracles/lookup.py, the
// formula's `requantize` in halut/ops/epilogue.py.
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
#include "answers.cuh"

namespace {

constexpr int stage_bytes = 16384;
constexpr int stage_books = 8;
constexpr int code_pitch = stage_books + 4;  // three words: rows of a warp lie in different banks
constexpr int exact_books = 256;

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

// 16 bytes of which `valid` exist, zeros behind; addresses and `valid` are multiples of UNIT.
template <int UNIT>
DEVICE Vector vector_of(const u8* p, int valid) {
  if (UNIT == 16) return vector_at(p);
  Vector v = {{0, 0, 0, 0}};
#pragma unroll
  for (int i = 0; i < 16; i += UNIT) {
    if (i >= valid) continue;
    if (UNIT == 4) {
      v.word[i / 4] = *reinterpret_cast<const u32*>(p + i);
    } else {
      v.word[i / 4] |= static_cast<u32>(p[i]) << (8 * (i % 4));
    }
  }
  return v;
}

// Bytes, 16, 4 or 1, that an address and a stride in bytes are multiples of.
DEVICE int unit_of(const void* p, i64 stride) {
  const u64 both = reinterpret_cast<u64>(p) | static_cast<u64>(stride);
  return both % 16 == 0 ? 16 : both % 4 == 0 ? 4 : 1;
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
      const Vector v = vector_of<1>(source, left);
      *reinterpret_cast<uint4*>(to + i * 16) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
    }
  }
}

// Codes of the block's rows for `books` codebooks. `words`: four and four are aligned, and copied
// asynchronously. Otherwise a thread has four loads in flight, and what is no code becomes one.
DEVICE void stage_codes(u8* to, const u8* codes, i64 row_codes, int rows, int books, int K,
                        bool words) {
  if (words) {
    const int c = threadIdx.x % 2 * 4;
    for (int r = threadIdx.x / 2; r < rows && c < books; r += threads / 2) {
      copy_async<4>(to + r * code_pitch + c, codes + r * row_codes + c, 4);
    }
    return;
  }
  constexpr int flight = 4, step = threads / stage_books;
  const int c = threadIdx.x % stage_books;
  if (c >= books) return;
  for (int first = threadIdx.x / stage_books; first < rows; first += flight * step) {
    int code[flight];
#pragma unroll
    for (int j = 0; j < flight; j++) {
      const int r = first + j * step < rows ? first + j * step : first;
      code[j] = codes[r * row_codes + c];
    }
#pragma unroll
    for (int j = 0; j < flight; j++) {
      const int r = first + j * step;
      if (r < rows) to[r * code_pitch + c] = static_cast<u8>(code[j] < K ? code[j] : K - 1);
    }
  }
}

// Of the words this thread copied: what is no code becomes one. `beyond`: the bits, in each byte,
// one of which every number from K on has.
DEVICE void limit_codes(u8* to, int rows, int books, int K, u32 beyond) {
  const int c = threadIdx.x % 2 * 4;
  for (int r = threadIdx.x / 2; r < rows && c < books; r += threads / 2) {
    u32* word = reinterpret_cast<u32*>(to + r * code_pitch + c);
    const u32 four = *word;
    if ((four & beyond) == 0) continue;
    u32 limited = 0;
    for (int b = 0; b < 32; b += 8) {
      const int code = four >> b & 0xff;
      limited |= static_cast<u32>(code < K ? code : K - 1) << b;
    }
    *word = limited;
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
  const int unit = unit_of(table, row_bytes);
  const bool words = unit_of(codes, s.C) >= 4;
  u32 beyond = K | K >> 1;  // see limit_codes
  beyond |= beyond >> 2;
  beyond = (~((beyond | beyond >> 4) >> 1) & 0xff) * 0x01010101u;
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
    stage_codes(code + at % 2 * block_rows * code_pitch, codes + c, s.G * s.C, rows, count, K,
                words);
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
    const i64 c0 = static_cast<i64>(at) * books;
    const int count = static_cast<int>(s.C - c0 < books ? s.C - c0 : books);
    if (words) limit_codes(code + at % 2 * block_rows * code_pitch, rows, count, K, beyond);
    __syncthreads();
    const u8* slice = tables + at % 2 * stage_bytes + lane * 16;
    const u8* chosen = code + at % 2 * block_rows * code_pitch + slot * code_pitch;
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

  // Parts take turns in two tiles: who writes one has met all that read it before at the barrier of
  // the part between.
  typedef AnswerTile<Sums, LANES, 1> Tile;
  static_assert(Tile::slots * Tile::width * 4 <= stage_bytes, "shared memory of the turned sums");
  const bool four = in_fours(out, s.M);
  Part part = {n0, g * s.M + first / Sums::size, s.G * s.M, 0, valid / Sums::size};
#pragma unroll 1
  for (int q = 0; q * slots < rows; q++) {
    const Tile tile = {reinterpret_cast<u32*>(tables + q % 2 * stage_bytes)};
#pragma unroll
    for (int p = 0; p < PER; p++) {  // registers have no run-time index
      if (p == q) tile.write(sums[p], added, out.plane != 0);
    }
    __syncthreads();
    part.n0 = n0 + q * slots;
    part.rows = rows - q * slots < slots ? rows - q * slots : slots;
    tile.leave(out, part, four);
  }
}

// ---- direct: the table through the caches

// Adds the entries of codebooks c .. c + SIZE, whose loads are in flight together. `word`: their
// codes are one aligned word.
template <int UNIT, int SIZE, class Sums>
DEVICE void add_group(Sums& sums, int& added, const u8* codes, const u8* table, i64 c, i64 K,
                      i64 row_bytes, int valid, bool word) {
  const u32 last = static_cast<u32>(K - 1);
  u32 code[SIZE];
  Vector entry[SIZE];
  if (SIZE == 8 && word) {
    const uint2 eight = *reinterpret_cast<const uint2*>(codes + c);
#pragma unroll
    for (int j = 0; j < SIZE; j++) code[j] = (j < 4 ? eight.x : eight.y) >> (8 * (j % 4)) & 0xff;
  } else {
#pragma unroll
    for (int j = 0; j < SIZE; j++) code[j] = codes[c + j];
  }
#pragma unroll
  for (int j = 0; j < SIZE; j++) {
    const u32 k = code[j] < last ? code[j] : last;
    entry[j] = vector_of<UNIT>(table + ((c + j) * K + k) * row_bytes, valid);
  }
  if (added + SIZE > exact_books) {
    flush(sums, added);
    added = 0;
  }
#pragma unroll
  for (int j = 0; j < SIZE; j++) sums.add(entry[j]);
  added += SIZE;
}

// The entries of codebooks [c, end).
template <int UNIT, class Sums>
DEVICE void add_books(Sums& sums, int& added, const u8* codes, const u8* table, i64 c, i64 end,
                      i64 K, i64 row_bytes, int valid, bool word) {
  constexpr int group = UNIT == 16 ? 8 : UNIT == 4 ? 4 : 1;
  for (; c + group <= end; c += group) {
    add_group<UNIT, group>(sums, added, codes, table, c, K, row_bytes, valid, word);
  }
  for (; c < end; c++) {
    add_group<UNIT, 1>(sums, added, codes, table, c, K, row_bytes, valid, false);
  }
}

// SLICES: parts of the codebooks, added at the end in int32: exact in whichever order.
template <class Sums, int SLICES>
DEVICE void direct(const u8* codes, const u8* table, const Output& out, const Shape& s) {
  constexpr int LANES = 8, width = LANES * 16;
  typedef AnswerTile<Sums, LANES, SLICES> Tile;
  SHARED(u32, turned, Tile::slots * Tile::width);
  const i64 row_bytes = s.M * Sums::size;
  const i64 m_tiles = (row_bytes + width - 1) / width;
  const i64 block = divided(blockIdx.x, s.G * m_tiles);
  const i64 column = blockIdx.x - block * s.G * m_tiles;
  const i64 g = divided(column, m_tiles);
  const i64 first = (column - g * m_tiles) * width, left = row_bytes - first;
  const i64 n0 = block * Tile::block_rows;
  const int at = threadIdx.x % LANES * 16, slot = threadIdx.x / LANES;
  const int row = slot % Tile::block_rows, slice = slot / Tile::block_rows;
  const int unit = unit_of(table, row_bytes);
  const bool word = unit_of(codes, 2 * s.C) == 16;
  const i64 share = SLICES == 1 ? s.C : (s.C + 8 * SLICES - 1) / (8 * SLICES) * 8;
  const i64 from = slice * share, end = from + share < s.C ? from + share : s.C;
  codes += ((n0 + row) * s.G + g) * s.C;
  table += g * s.C * s.K * row_bytes + first + at;
  Sums sums;
  sums.clear();
  int added = 0;
  if (n0 + row < s.N && at < left) {
    const int valid = static_cast<int>(left - at < 16 ? left - at : 16);
    if (unit == 16) {
      add_books<16>(sums, added, codes, table, from, end, s.K, row_bytes, valid, word);
    } else if (unit == 4) {
      add_books<4>(sums, added, codes, table, from, end, s.K, row_bytes, valid, word);
    } else {
      add_books<1>(sums, added, codes, table, from, end, s.K, row_bytes, valid, word);
    }
  }
  flush(sums, added);
  const Tile tile = {turned};
  tile.write(sums, added, out.plane != 0);
  __syncthreads();
  const i64 rows = s.N - n0 < Tile::block_rows ? s.N - n0 : Tile::block_rows;
  const i64 count = left < width ? left : width;
  const Part part = {n0, g * s.M + first / Sums::size, s.G * s.M, static_cast<int>(rows),
                     static_cast<int>(count / Sums::size)};
  tile.leave(out, part, in_fours(out, s.M));
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
#define DIRECT(name, Sums, SLICES)                                           \
  extern "C" __global__ void __launch_bounds__(threads, 2) name(ARGUMENTS) { \
    direct<Sums, SLICES>(codes, table, OUTPUT, {N, G, C, K, M});             \
  }

STAGED(accumulate_i8_8, Int8Sums, 8, 4, 2)
STAGED(accumulate_i8_4, Int8Sums, 4, 4, 2)
STAGED(accumulate_i8_2, Int8Sums, 2, 4, 2)
STAGED(accumulate_i8_8_wide, WideSums, 8, 2, 2)
STAGED(accumulate_f32_8, FloatSums<Float>, 8, 4, 3)
STAGED(accumulate_f16_8, FloatSums<Half>, 8, 4, 3)
STAGED(accumulate_bf16_8, FloatSums<Bfloat>, 8, 4, 3)
DIRECT(accumulate_i8_direct, WideSums, 1)
DIRECT(accumulate_i8_direct_8, WideSums, 8)
DIRECT(accumulate_i8_direct_32, WideSums, 32)
DIRECT(accumulate_f32_direct, FloatSums<Float>, 1)
DIRECT(accumulate_f16_direct, FloatSums<Half>, 1)
DIRECT(accumulate_bf16_direct, FloatSums<Bfloat>, 1)
