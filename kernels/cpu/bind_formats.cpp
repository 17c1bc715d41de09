// Bindings of number formats; see ops/mxint8.cpp.
#include "dispatch.h"

HALUT_DECLARE(void mxint8_dequantize(const int8_t* codes, const uint8_t* scales, void* out,
                                     int64_t rows, int64_t C, int64_t dtype, int threads))

namespace halut {

void bind_formats(nb::module_& m) {
  m.def(
      "mxint8_dequantize",
      [](Address codes, Address scales, Address out, int64_t rows, int64_t C, int64_t dtype,
         int threads) {
        HALUT_PICK(mxint8_dequantize)
        (at<const int8_t>(codes), at<const uint8_t>(scales), at<void>(out), rows, C, dtype,
         threads);
      },
      release_gil());
}

}  // namespace halut
