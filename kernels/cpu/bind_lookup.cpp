// Bindings of the table products; see ops/accumulate.cpp, scatter_add.cpp and
// quantize.cpp.
#include "dispatch.h"

HALUT_DECLARE(void accumulate_float(const uint8_t* codes, const float* table, float* out, int64_t N,
                                    int64_t G, int64_t C, int64_t K, int64_t M, int threads))
HALUT_DECLARE(void accumulate_int8(const uint8_t* codes, const int8_t* table, int32_t* out,
                                   int64_t N, int64_t G, int64_t C, int64_t K, int64_t M,
                                   int threads))
HALUT_DECLARE(void scatter_add(const uint8_t* codes, const float* grad, float* out, int64_t N,
                               int64_t G, int64_t C, int64_t K, int64_t M, int threads))
HALUT_DECLARE(void quantize(const float* lut, int8_t* q, float* steps, float* offset, int64_t G,
                            int64_t C, int64_t K, int64_t M, float limit, float clip,
                            bool per_layer, int threads))

namespace halut {

void bind_lookup(nb::module_& m) {
  m.def(
      "accumulate_float",
      [](Address codes, Address table, Address out, int64_t N, int64_t G, int64_t C, int64_t K,
         int64_t M, int threads) {
        HALUT_PICK(accumulate_float)
        (at<const uint8_t>(codes), at<const float>(table), at<float>(out), N, G, C, K, M, threads);
      },
      release_gil());
  m.def(
      "accumulate_int8",
      [](Address codes, Address table, Address out, int64_t N, int64_t G, int64_t C, int64_t K,
         int64_t M, int threads) {
        HALUT_PICK(accumulate_int8)
        (at<const uint8_t>(codes), at<const int8_t>(table), at<int32_t>(out), N, G, C, K, M,
         threads);
      },
      release_gil());
  m.def(
      "scatter_add",
      [](Address codes, Address grad, Address out, int64_t N, int64_t G, int64_t C, int64_t K,
         int64_t M, int threads) {
        HALUT_PICK(scatter_add)
        (at<const uint8_t>(codes), at<const float>(grad), at<float>(out), N, G, C, K, M, threads);
      },
      release_gil());
  m.def(
      "quantize",
      [](Address lut, Address q, Address steps, Address offset, int64_t G, int64_t C, int64_t K,
         int64_t M, float limit, float clip, bool per_layer, int threads) {
        HALUT_PICK(quantize)
        (at<const float>(lut), at<int8_t>(q), at<float>(steps), at<float>(offset), G, C, K, M,
         limit, clip, per_layer, threads);
      },
      release_gil());
}

}  // namespace halut
