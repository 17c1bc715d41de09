// Bindings of the inference layers; see ops/tree_layer.cpp.
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "dispatch.h"

HALUT_DECLARE(int tree_layer(const View& x, const int64_t* split_dims, const float* thresholds,
                             const uint8_t* packed, const Target& to, int64_t G, int64_t C,
                             int64_t K, int64_t M, int threads))
HALUT_DECLARE(int few_rows_layer(const View& x, const int64_t* split_dims, const float* thresholds,
                                 const int8_t* table, const Target& to, int64_t G, int64_t C,
                                 int64_t K, int64_t M, int threads))
HALUT_DECLARE(int code_layer(const uint8_t* codes, const uint8_t* packed, const Target& to,
                             int64_t N, int64_t plane, int64_t G, int64_t C, int64_t K, int64_t M,
                             int threads))
HALUT_DECLARE(bool pack_table(const int8_t* table, uint8_t* packed, int64_t G, int64_t C, int64_t K,
                              int64_t M, int64_t bytes))
HALUT_DECLARE(int64_t packed_bytes(int64_t G, int64_t C, int64_t M))
HALUT_DECLARE(bool all_finite(const void* data, int64_t count, int64_t dtype, int threads))

namespace halut {

namespace {

// data, dtype, contiguous, scale, bias, low, residual, residual_dtype, residual_scale
using TargetFields =
    std::tuple<Address, int64_t, bool, Address, Address, float, Address, int64_t, float>;

Target target_of(const TargetFields& f) {
  const auto& [data, dtype, contiguous, scale, bias, low, residual, residual_dtype, residual_scale] = f;
  return Target{at<void>(data), dtype, contiguous, at<const float>(scale), at<const float>(bias), low,
                at<const void>(residual), residual_dtype, residual_scale};
}

// A tree layer on inputs of one shape and strides: what stays from call to call, addresses of
// tensors included, is taken apart once. A small layer takes as long as its arguments do.
struct TreeLayer {
  View x;
  Target to;
  const int64_t* split_dims;
  const float* thresholds;
  const void* table;  // packed, or int8 [G, C, K, M] for few rows
  int64_t G, C, K, M;
  bool few;
  int64_t values;  // of x, which lie one after the other; 0: not to be looked at

  int operator()(Address data, Address out, Address residual, int64_t residual_dtype,
                 float residual_scale, int threads) const {
    View from = x;
    from.data = static_cast<int64_t>(data);
    Target target = to;
    target.data = at<void>(out), target.residual = at<const void>(residual);
    target.residual_dtype = residual_dtype, target.residual_scale = residual_scale;
    // Before the layer, which then finds its input in the caches.
    const bool finite =
        values == 0 || HALUT_PICK(all_finite)(at<const void>(data), values, x.dtype, threads);
    const int status =
        few ? HALUT_PICK(few_rows_layer)(from, split_dims, thresholds, static_cast<const int8_t*>(table),
                                         target, G, C, K, M, threads)
            : HALUT_PICK(tree_layer)(from, split_dims, thresholds, static_cast<const uint8_t*>(table),
                                     target, G, C, K, M, threads);
    return finite ? status : status | static_cast<int>(Status::not_finite);
  }
};

}  // namespace

void bind_layer(nb::module_& m) {
  m.def(
      "all_finite",
      [](Address data, int64_t count, int64_t dtype, int threads) {
        return HALUT_PICK(all_finite)(at<const void>(data), count, dtype, threads);
      },
      release_gil());
  m.def("packed_bytes",
        [](int64_t G, int64_t C, int64_t M) { return HALUT_PICK(packed_bytes)(G, C, M); });
  m.def("pack_table", [](Address table, Address packed, int64_t G, int64_t C, int64_t K, int64_t M,
                         int64_t bytes) {
    return HALUT_PICK(pack_table)(at<const int8_t>(table), at<uint8_t>(packed), G, C, K, M, bytes);
  });
  nb::class_<TreeLayer>(m, "TreeLayer")
      .def(
          "__init__",
          [](TreeLayer* self, const Fields& x, Address split_dims, Address thresholds, Address table,
             const TargetFields& to, std::array<int64_t, 4> sizes, bool few, int64_t values) {
            const auto& [G, C, K, M] = sizes;
            new (self) TreeLayer{view_of(x),
                                 target_of(to),
                                 at<const int64_t>(split_dims),
                                 at<const float>(thresholds),
                                 at<const void>(table),
                                 G,
                                 C,
                                 K,
                                 M,
                                 few,
                                 values};
          })
      .def("__call__", &TreeLayer::operator(), release_gil());
  m.def(
      "code_layer",
      [](Address codes, Address packed, const TargetFields& to, int64_t N, int64_t plane, int64_t G,
         int64_t C, int64_t K, int64_t M, int threads) {
        return HALUT_PICK(code_layer)(at<const uint8_t>(codes), at<const uint8_t>(packed),
                                      target_of(to), N, plane, G, C, K, M, threads);
      },
      release_gil());
}

}  // namespace halut
