// Bindings of bit planes and their products; see ops/bit_planes.cpp and ops/bit_product.cpp.
#include "dispatch.h"

HALUT_DECLARE(void bit_planes(const View& x, const float* thresholds, const uint8_t* table,
                              uint8_t* out, int64_t T, int64_t J, int64_t G, int threads))
HALUT_DECLARE(bool bit_product(const uint64_t* x, const uint64_t* w, const float* alpha,
                               const float* beta, const float* bias, float* y, int64_t N, int64_t G,
                               int64_t J, int64_t W, int64_t I, int64_t M, int64_t P, int64_t D,
                               int threads))

namespace halut {

void bind_bits(nb::module_& m) {
  m.def(
      "bit_planes",
      [](const Fields& x, Address thresholds, Address table, Address out, int64_t T, int64_t J,
         int64_t G, int threads) {
        HALUT_PICK(bit_planes)
        (view_of(x), at<const float>(thresholds), at<const uint8_t>(table), at<uint8_t>(out), T, J,
         G, threads);
      },
      release_gil());
  m.def(
      "bit_product",
      [](Address x, Address w, Address alpha, Address beta, Address bias, Address y, int64_t N,
         int64_t G, int64_t J, int64_t W, int64_t I, int64_t M, int64_t P, int64_t D, int threads) {
        return HALUT_PICK(bit_product)(
            at<const uint64_t>(x), at<const uint64_t>(w), at<const float>(alpha),
            at<const float>(beta), at<const float>(bias), at<float>(y), N, G, J, W, I, M, P, D,
            threads);
      },
      release_gil());
}

}  // namespace halut
