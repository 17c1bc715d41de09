// For benchmarks: a clock, and the look-ups of a layer alone (ops/look_up.cpp).
//
// Cycles cannot be read portably, but a chain of dependent additions takes one cycle each. Its
// reference is its own definition: the result is `iterations` (tests/bench).
#include "dispatch.h"

HALUT_DECLARE(int64_t packed_code_bytes(int64_t N, int64_t C))
HALUT_DECLARE(void pack_codes(const uint8_t* codes, uint8_t* packed, int64_t N, int64_t C))
HALUT_DECLARE(void look_up(const uint8_t* codes, const uint8_t* packed, int32_t* out, int64_t N,
                           int64_t C, int64_t M))

namespace halut {

namespace {

// One addition of two registers per iteration of the chain. Both operands are hidden from the
// compiler, or it would multiply; an immediate operand would not do either, as recent cores add
// small constants while renaming, several in one cycle.
int64_t spin(int64_t iterations) {
  int64_t sum = 0, one = 1;
  for (int64_t i = 0; i < iterations / 8; i++) {
#define HALUT_ADD                      \
  asm volatile("" : "+r"(sum), "+r"(one)); \
  sum += one;
    HALUT_ADD HALUT_ADD HALUT_ADD HALUT_ADD HALUT_ADD HALUT_ADD HALUT_ADD HALUT_ADD
#undef HALUT_ADD
  }
  return sum;
}

}  // namespace

void bind_clock(nb::module_& m) {
  m.def("spin", &spin, release_gil(),
        "Add 1 `iterations` times (rounded down to 8), one dependent addition per cycle.");
  m.def("packed_code_bytes",
        [](int64_t N, int64_t C) { return HALUT_PICK(packed_code_bytes)(N, C); });
  m.def("pack_codes", [](Address codes, Address packed, int64_t N, int64_t C) {
    HALUT_PICK(pack_codes)(at<const uint8_t>(codes), at<uint8_t>(packed), N, C);
  });
  m.def(
      "look_up",
      [](Address codes, Address packed, Address out, int64_t N, int64_t C, int64_t M) {
        HALUT_PICK(look_up)(at<const uint8_t>(codes), at<const uint8_t>(packed), at<int32_t>(out),
                            N, C, M);
      },
      release_gil(), "Sums of one group on one thread; out 0: thrown away.");
}

}  // namespace halut
