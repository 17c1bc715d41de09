// A measured clock: cycles cannot be read portably, but a chain of dependent additions takes one
// cycle each. Its reference is its own definition: the result is `iterations` (tests/bench).
#include "dispatch.h"

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
}

}  // namespace halut
