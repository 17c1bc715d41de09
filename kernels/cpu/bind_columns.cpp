// Bindings of what moves along maps; see ops/columns.cpp and ops/*_pool.cpp.
#include "dispatch.h"

HALUT_DECLARE(bool gather_columns(const View& view, const int64_t* taps, int64_t T, float* out,
                                  int64_t stride_n, int64_t stride_t, int threads))
HALUT_DECLARE(bool scatter_columns(const View& view, const int64_t* taps, int64_t T,
                                   const float* grad, int64_t stride_n, int64_t stride_t,
                                   int threads))

HALUT_DECLARE(int max_pool(const View& x, bool channels_last, uint8_t* out, bool contiguous, int threads))
HALUT_DECLARE(void mean_pool(const uint8_t* x, bool channels_last, uint8_t* out, int64_t B, int64_t C,
                             int64_t pixels, float scale, float shift, int threads))

namespace halut {

void bind_columns(nb::module_& m) {
  m.def(
      "max_pool",
      [](const Fields& x, bool channels_last, Address out, bool contiguous, int threads) {
        return HALUT_PICK(max_pool)(view_of(x), channels_last, at<uint8_t>(out), contiguous, threads);
      },
      release_gil());
  m.def(
      "mean_pool",
      [](Address x, bool channels_last, Address out, int64_t B, int64_t C, int64_t pixels, float scale,
         float shift, int threads) {
        HALUT_PICK(mean_pool)
        (at<const uint8_t>(x), channels_last, at<uint8_t>(out), B, C, pixels, scale, shift, threads);
      },
      release_gil());
  m.def(
      "gather_columns",
      [](const Fields& x, Address taps, int64_t T, Address out, int64_t stride_n, int64_t stride_t,
         int threads) {
        return HALUT_PICK(gather_columns)(view_of(x), at<const int64_t>(taps), T, at<float>(out),
                                          stride_n, stride_t, threads);
      },
      release_gil());
  m.def(
      "scatter_columns",
      [](const Fields& dx, Address taps, int64_t T, Address grad, int64_t stride_n,
         int64_t stride_t, int threads) {
        return HALUT_PICK(scatter_columns)(view_of(dx), at<const int64_t>(taps), T,
                                           at<const float>(grad), stride_n, stride_t, threads);
      },
      release_gil());
}

}  // namespace halut
