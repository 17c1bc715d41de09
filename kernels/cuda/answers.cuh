// What becomes of the sums of kernels/cuda/accumulate.cu: scaled, added to and limited, they go
// through shared memory to rows or planes of y. To be included behind device.cuh.
#pragma once

namespace {

constexpr int threads = 256;  // of a block

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

DEVICE u32 bits_of(int sum) { return static_cast<u32>(sum); }
DEVICE u32 bits_of(float sum) { return __float_as_uint(sum); }

// Stores V sums, given by their bits, at y[index] and on: y = max(sum * scale + bias + residual,
// low). No contraction: the bits are those of the CPU's kernels.
template <class Sums, int V>
DEVICE void put(const Output& out, i64 index, const u32* sum, const float* scale,
                const float* bias) {
  float y[V];
  if (Sums::size == 1 && out.dtype == int32) {
#pragma unroll
    for (int v = 0; v < V; v++) y[v] = __uint_as_float(sum[v]);
    store_several<V>(out.y, index, f32, y);
    return;
  }
#pragma unroll
  for (int v = 0; v < V; v++) {
    y[v] = Sums::size == 1 ? static_cast<float>(static_cast<int>(sum[v])) : __uint_as_float(sum[v]);
  }
  if (out.scale) {
#pragma unroll
    for (int v = 0; v < V; v++) y[v] = __fadd_rn(__fmul_rn(y[v], scale[v]), bias[v]);
    if (out.residual) {
      float r[V];
      load_several<V>(out.residual, index, out.residual_dtype, r);
#pragma unroll
      for (int v = 0; v < V; v++) y[v] = __fadd_rn(y[v], __fmul_rn(r[v], out.residual_scale));
    }
#pragma unroll
    for (int v = 0; v < V; v++) y[v] = fmaxf(y[v], out.low);
  }
  store_several<V>(out.y, index, out.dtype, y);
}

// Rows and outputs of a block, or of a part of its rows.
struct Part {
  i64 n0, o, outputs;  // its first row and output, outputs of a row of y
  int rows, count;     // of its rows and outputs exist
};

// Sums of a part in shared memory: threads write four outputs of a row and read what lies side by
// side in y, four outputs of a row or four rows of an output. Groups of four change places so that
// neither meets a bank twice. SLICES tables of a sum each, one behind the other, are added.
template <class Sums, int LANES, int SLICES>
struct AnswerTile {
  static constexpr int slots = threads / LANES, block_rows = slots / SLICES;
  static constexpr int width = LANES * Sums::entries;
  u32* word;

  static DEVICE int in_rows(int slot, int output) {
    const int four = output / 4;
    return slot * width + 4 * (four ^ (four / 8 % 4)) + output % 4;
  }
  static DEVICE int in_planes(int slot, int output) {
    const int turn = output / Sums::entries * (8 / LANES);
    return output * slots + 4 * (slot / 4 ^ turn) + slot % 4;
  }

  DEVICE void write(const Sums& sums, int added, bool planes) const {
    const int thread = opaque(threadIdx.x);
    const int slot = thread / LANES, first = thread % LANES * Sums::entries;
#pragma unroll
    for (int i = 0; i < Sums::entries; i += 4) {
      u32 four[4];
#pragma unroll
      for (int j = 0; j < 4; j++) four[j] = bits_of(sums.sum(i + j, added));
      if (planes) {
#pragma unroll
        for (int j = 0; j < 4; j++) word[in_planes(slot, first + i + j)] = four[j];
      } else {
        *reinterpret_cast<uint4*>(word + in_rows(slot, first + i)) =
            make_uint4(four[0], four[1], four[2], four[3]);
      }
    }
  }

  template <int V>
  DEVICE void read(int slot, int output, bool planes, u32* sum) const {
#pragma unroll
    for (int v = 0; v < V; v++) sum[v] = 0;
#pragma unroll 4
    for (int slice = 0; slice < SLICES; slice++) {
      const int at = slot + slice * block_rows;
      const u32* from = word + (planes ? in_planes(at, output) : in_rows(at, output));
      if (V == 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(from);
        sum[0] += four.x, sum[1 % V] += four.y, sum[2 % V] += four.z, sum[3 % V] += four.w;
      } else {
        sum[0] += from[0];
      }
    }
  }

  // A thread keeps its outputs and takes rows in turn.
  template <int V>
  DEVICE void to_rows(const Output& out, const Part& part) const {
    constexpr int units = width / V, step = threads / units;
    const int thread = opaque(threadIdx.x), output = thread % units * V;
    if (output >= part.count) return;
    float scale[V] = {}, bias[V] = {};
    if (out.scale) {
#pragma unroll
      for (int v = 0; v < V; v++) {
        scale[v] = out.scale[part.o + output + v];
        bias[v] = out.bias[part.o + output + v];
      }
    }
    const int first = thread / units;
    i64 index = (part.n0 + first) * part.outputs + part.o + output;
#pragma unroll 1
    for (int r = first; r < part.rows; r += step, index += step * part.outputs) {
      u32 sum[V];
      read<V>(r, output, false, sum);
      put<Sums, V>(out, index, sum, scale, bias);
    }
  }

  // A thread keeps its rows, which are of one image, and takes outputs in turn.
  template <int V>
  DEVICE void to_planes(const Output& out, const Part& part) const {
    constexpr int units = block_rows / V, step = threads / units;
    const int thread = opaque(threadIdx.x), r = thread % units * V, first = thread / units;
    if (r >= part.rows) return;
    const i64 n = part.n0 + r, b = divided(n, out.plane);
    i64 index = (b * part.outputs + part.o + first) * out.plane + n - b * out.plane;
#pragma unroll 1
    for (int output = first; output < part.count; output += step, index += step * out.plane) {
      float scale[V] = {}, bias[V] = {};
      if (out.scale) {
#pragma unroll
        for (int v = 0; v < V; v++) {
          scale[v] = out.scale[part.o + output];
          bias[v] = out.bias[part.o + output];
        }
      }
      u32 sum[V];
      read<V>(r, output, true, sum);
      put<Sums, V>(out, index, sum, scale, bias);
    }
  }

  // `four`: groups of four answers, and of what is added to them, are whole and aligned.
  DEVICE void leave(const Output& out, const Part& part, bool four) const {
    constexpr int rows = block_rows < 4 ? 1 : 4;
    if (!out.plane) {
      if (four) {
        to_rows<4>(out, part);
      } else {
        to_rows<1>(out, part);
      }
    } else if (four && rows == 4) {
      to_planes<rows>(out, part);
    } else {
      to_planes<1>(out, part);
    }
  }
};

DEVICE bool in_fours(const Output& out, i64 M) {
  const u64 y = reinterpret_cast<u64>(out.y), r = reinterpret_cast<u64>(out.residual);
  return (out.plane ? out.plane : M) % 4 == 0 && y % (4 * bytes_of(out.dtype)) == 0 &&
         r % (4 * bytes_of(out.residual_dtype)) == 0;
}

}  // namespace
