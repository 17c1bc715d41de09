// Bindings of the inference layers; see ops/tree_layer.cpp.
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "dispatch.h"

HALUT_DECLARE(int tree_layer(const View& x, const int64_t* taps, const float* thresholds,
                             const uint8_t* packed, const Target& to, int64_t G, int64_t C,
                             int64_t K, int64_t M, int threads))
HALUT_DECLARE(int few_rows_layer(const View& x, const int64_t* taps, const float* thresholds,
                                 const int8_t* table, const Target& to, int64_t G, int64_t C,
                                 int64_t K, int64_t M, int threads))
HALUT_DECLARE(int code_layer(const uint8_t* codes, const uint8_t* packed, const Target& to,
                             int64_t N, int64_t plane, int64_t G, int64_t C, int64_t K, int64_t M,
                             int threads))
HALUT_DECLARE(bool pack_table(const int8_t* table, uint8_t* packed, int64_t G, int64_t C, int64_t K,
                              int64_t M, int64_t bytes))
HALUT_DECLARE(int64_t packed_bytes(int64_t G, int64_t C, int64_t M))

namespace halut {

namespace {

// data, dtype, by_plane, scale, bias, low, residual, residual_dtype, residual_scale
using TargetFields =
    std::tuple<Address, int64_t, bool, Address, Address, float, Address, int64_t, float>;

Target target_of(const TargetFields& f) {
  const auto& [data, dtype, by_plane, scale, bias, low, residual, residual_dtype, residual_scale] = f;
  return Target{at<void>(data), dtype, by_plane, at<const float>(scale), at<const float>(bias), low,
                at<const void>(residual), residual_dtype, residual_scale};
}

}  // namespace

void bind_layer(nb::module_& m) {
  m.def("packed_bytes",
        [](int64_t G, int64_t C, int64_t M) { return HALUT_PICK(packed_bytes)(G, C, M); });
  m.def("pack_table", [](Address table, Address packed, int64_t G, int64_t C, int64_t K, int64_t M,
                         int64_t bytes) {
    return HALUT_PICK(pack_table)(at<const int8_t>(table), at<uint8_t>(packed), G, C, K, M, bytes);
  });
  m.def(
      "tree_layer",
      [](const Fields& x, Address taps, Address thresholds, Address packed, const TargetFields& to,
         int64_t G, int64_t C, int64_t K, int64_t M, int threads) {
        return HALUT_PICK(tree_layer)(view_of(x), at<const int64_t>(taps),
                                      at<const float>(thresholds), at<const uint8_t>(packed),
                                      target_of(to), G, C, K, M, threads);
      },
      release_gil());
  m.def(
      "code_layer",
      [](Address codes, Address packed, const TargetFields& to, int64_t N, int64_t plane, int64_t G,
         int64_t C, int64_t K, int64_t M, int threads) {
        return HALUT_PICK(code_layer)(at<const uint8_t>(codes), at<const uint8_t>(packed),
                                      target_of(to), N, plane, G, C, K, M, threads);
      },
      release_gil());
  m.def(
      "few_rows_layer",
      [](const Fields& x, Address taps, Address thresholds, Address table, const TargetFields& to,
         int64_t G, int64_t C, int64_t K, int64_t M, int threads) {
        return HALUT_PICK(few_rows_layer)(view_of(x), at<const int64_t>(taps),
                                          at<const float>(thresholds), at<const int8_t>(table),
                                          target_of(to), G, C, K, M, threads);
      },
      release_gil());
}

}  // namespace halut
