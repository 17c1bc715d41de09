// The bindings' side of the levels: a function of every level behind one name.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>

#include "view.h"

namespace halut {

namespace nb = nanobind;

// Index of the level in use: 0 portable, 1 avx2, 2 avx512, 3 avx512vbmi.
extern int current_level;

// Addresses come from Tensor.data_ptr(); halut/ops/cpu has checked what they point to.
using Address = uint64_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

using Fields = std::array<int64_t, view_fields>;

inline View view_of(const Fields& f) {
  static_assert(sizeof(View) == sizeof(Fields));
  View view;
  __builtin_memcpy(&view, f.data(), sizeof view);
  return view;
}

using release_gil = nb::call_guard<nb::gil_scoped_release>;

}  // namespace halut

// HALUT_DECLARE(void f(int)) declares f in the namespace of every level; HALUT_PICK(f) is the one
// to call.
#if defined(HALUT_HAS_avx2)
#define HALUT_DECLARE(...)                                    \
  namespace halut {                                           \
  namespace portable { __VA_ARGS__; }                         \
  namespace avx2 { __VA_ARGS__; }                             \
  namespace avx512 { __VA_ARGS__; }                           \
  namespace avx512vbmi { __VA_ARGS__; }                       \
  }
#define HALUT_PICK(f)                                                                  \
  (halut::current_level == 0   ? halut::portable::f                                    \
   : halut::current_level == 1 ? halut::avx2::f                                        \
   : halut::current_level == 2 ? halut::avx512::f                                      \
                               : halut::avx512vbmi::f)
#else
#define HALUT_DECLARE(...) \
  namespace halut {        \
  namespace portable { __VA_ARGS__; } \
  }
#define HALUT_PICK(f) halut::portable::f
#endif
