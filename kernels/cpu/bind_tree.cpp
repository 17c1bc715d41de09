// Bindings of the hash trees; see ops/tree_encode.cpp and ops/tree_gradient.cpp.
#include "dispatch.h"

HALUT_DECLARE(bool tree_encode(const View& view, const int64_t* split_dims, const float* thresholds,
                               uint8_t* codes, int64_t GC, int depth, int threads))
HALUT_DECLARE(bool tree_gradient(const View& view, const View& dview, const int64_t* split_dims,
                                 const float* thresholds, const float* tau, float ste_mix,
                                 bool flips, const float* products, int64_t stride, int64_t n0, int64_t n,
                                 int64_t c0, int64_t c1, int depth, float* dthresholds,
                                 float* dtau, int threads))

namespace halut {

void bind_tree(nb::module_& m) {
  m.def(
      "tree_encode",
      [](const Fields& x, Address split_dims, Address thresholds, Address codes, int64_t GC, int depth,
         int threads) {
        return HALUT_PICK(tree_encode)(view_of(x), at<const int64_t>(split_dims),
                                       at<const float>(thresholds), at<uint8_t>(codes), GC, depth,
                                       threads);
      },
      release_gil());
  m.def(
      "tree_gradient",
      [](const Fields& x, const Fields& dx, Address split_dims, Address thresholds, Address tau,
         float ste_mix, bool flips, Address products, int64_t stride, int64_t n0, int64_t n, int64_t c0,
         int64_t c1, int depth, Address dthresholds, Address dtau, int threads) {
        return HALUT_PICK(tree_gradient)(
            view_of(x), view_of(dx), at<const int64_t>(split_dims), at<const float>(thresholds),
            at<const float>(tau), ste_mix, flips, at<const float>(products), stride, n0, n, c0, c1, depth,
            at<float>(dthresholds), at<float>(dtau), threads);
      },
      release_gil());
}

}  // namespace halut
