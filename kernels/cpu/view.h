// Where an encoder's inputs lie: the im2col rows of an activation map, or the rows of a matrix,
// which is the map [N, D, 1, 1] under a 1x1 kernel. Nothing of im2col is ever built.
#pragma once

#include <cstdint>

namespace halut {

// i32: of outputs only, the sums as they are. u8: of the tree layer only.
enum class Dtype : int64_t { f32 = 0, f16 = 1, bf16 = 2, i8 = 3, i32 = 4, u8 = 5 };

// Column t of row n = (b, oy, ox) is x[b, t / (kh kw), oy sh + i dh - top, ox sw + j dw - left]
// with i = t / kw % kh and j = t % kw, and 0 outside of the map. Strides count elements.
struct View {
  int64_t data, dtype;
  int64_t B, C, H, W;
  int64_t stride_b, stride_c, stride_h, stride_w;
  int64_t kh, kw, sh, sw, dh, dw, left, top;
  int64_t OH, OW;

  int64_t rows() const { return B * OH * OW; }
};

constexpr int view_fields = 20;

// Where a layer's answers go and how sums become them: max(sum * scale + bias + residual *
// residual_scale, low). The residual, or nullptr, lies as the answers do.
struct Target {
  void* data;
  int64_t dtype;
  bool contiguous;  // [B, outputs, OH, OW], else [rows, outputs]
  const float *scale, *bias;
  float low;
  const void* residual;
  int64_t residual_dtype;
  float residual_scale;
};

// What a kernel answers; halut/ops/cpu turns the others into errors. not_finite is added to one of
// them: the input holds NaN or an infinity.
enum class Status : int { done = 0, other_table = 1, bad_tap = 2, no_memory = 3, not_finite = 8 };

}  // namespace halut
