// Whether all of `count` values are finite, float32, float16 or bfloat16, in any order of memory.
//
// Without its sign a number that is none has the largest exponent: one addition and one unsigned
// maximum per vector, so that the check takes as long as reading does.
#include "../view.h"
#include "../level.h"

HALUT_BEGIN

namespace {

constexpr int64_t slice = 1 << 14, alone = 1 << 17;

template <typename Bits>
bool below(const Bits* values, int64_t from, int64_t to, Bits infinity) {
  Bits largest = 0;
  for (int64_t i = from; i < to; i++) {
    const Bits magnitude = static_cast<Bits>(values[i] + values[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest < infinity;
}

template <typename Bits>
bool all_below(const void* data, int64_t count, Bits infinity, int threads) {
  const Bits* values = static_cast<const Bits*>(data);
  if (threads == 1 || count < alone) return below(values, 0, count, infinity);
  int bad = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : bad)
  for (int64_t at = 0; at < count; at += slice)
    bad += !below(values, at, at + slice < count ? at + slice : count, infinity);
  return bad == 0;
}

}  // namespace

bool all_finite(const void* data, int64_t count, int64_t dtype, int threads) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::f32:
      return all_below<uint32_t>(data, count, 0xff000000u, threads);
    case Dtype::f16:
      return all_below<uint16_t>(data, count, 0xf800u, threads);
    case Dtype::bf16:
      return all_below<uint16_t>(data, count, 0xff00u, threads);
    default:
      return true;
  }
}

HALUT_END
