// Bindings of the products of narrow integers; see ops/sign_magnitude.cpp.
#include "dispatch.h"

HALUT_DECLARE(void sign_magnitude(const int8_t* x, const int8_t* weight, int32_t* out, int64_t N,
                                  int64_t G, int64_t M, int64_t D, int threads))

namespace halut {

void bind_products(nb::module_& m) {
  m.def(
      "sign_magnitude",
      [](Address x, Address weight, Address out, int64_t N, int64_t G, int64_t M, int64_t D,
         int threads) {
        HALUT_PICK(sign_magnitude)
        (at<const int8_t>(x), at<const int8_t>(weight), at<int32_t>(out), N, G, M, D, threads);
      },
      release_gil());
}

}  // namespace halut
