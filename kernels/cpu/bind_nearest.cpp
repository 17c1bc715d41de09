// Bindings of the nearest-prototype encoder; see ops/nearest.cpp and ops/nearest_gradient.cpp.
#include "dispatch.h"

HALUT_DECLARE(void nearest_encode(const View& view, const float* prototypes, uint8_t* codes,
                                  int64_t D, int64_t C, int64_t groups, int64_t K, int64_t metric,
                                  int threads))

HALUT_DECLARE(void nearest_gradient(const View& view, const View& dx, const float* products,
                                    int64_t pitch, const float* prototypes, const float* inverse,
                                    float ste_mix, float* dprototypes, float* dinverse, int64_t D, int64_t C,
                                    int64_t groups, int64_t K, int64_t metric, int64_t first,
                                    int64_t last, int64_t n0, int64_t n1, int threads))

namespace halut {

void bind_nearest(nb::module_& m) {
  m.def(
      "nearest_encode",
      [](const Fields& view, Address prototypes, Address codes, int64_t D, int64_t C,
         int64_t groups, int64_t K, int64_t metric, int threads) {
        HALUT_PICK(nearest_encode)
        (view_of(view), at<const float>(prototypes), at<uint8_t>(codes), D, C, groups, K, metric,
         threads);
      },
      release_gil());
  m.def(
      "nearest_gradient",
      [](const Fields& view, const Fields& dx, Address products, int64_t pitch, Address prototypes,
         Address inverse, float ste_mix, Address dprototypes, Address dinverse, int64_t D, int64_t C,
         int64_t groups, int64_t K, int64_t metric, int64_t first, int64_t last, int64_t n0,
         int64_t n1, int threads) {
        HALUT_PICK(nearest_gradient)
        (view_of(view), view_of(dx), at<const float>(products), pitch, at<const float>(prototypes),
         at<const float>(inverse), ste_mix, at<float>(dprototypes), at<float>(dinverse), D, C, groups, K,
         metric, first, last, n0, n1, threads);
      },
      release_gil());
}

}  // namespace halut
