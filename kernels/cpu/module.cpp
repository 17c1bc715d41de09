// The extension halut._kernels: picks a level when it is loaded and holds the bindings of all
// operations. Shapes, dtypes, devices and contiguity are checked by halut/ops/cpu, its only caller.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "dispatch.h"

namespace halut {

int current_level = 0;

void bind_bits(nb::module_&);
void bind_columns(nb::module_&);
void bind_formats(nb::module_&);
void bind_layer(nb::module_&);
void bind_clock(nb::module_&);
void bind_lookup(nb::module_&);
void bind_tree(nb::module_&);
void bind_nearest(nb::module_&);
void bind_products(nb::module_&);

namespace {

const char* const names[] = {"portable", "avx2", "avx512", "avx512vbmi"};

int best_level() {
#if defined(HALUT_HAS_avx2)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
  if (avx512 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512vpopcntdq"))
    return 3;
  return avx512 ? 2 : avx2 ? 1 : 0;
#else
  return 0;
#endif
}

}  // namespace
}  // namespace halut

NB_MODULE(_kernels, m) {
  using namespace halut;
  current_level = best_level();
  m.def("levels", [] { return std::vector<std::string>(names, names + best_level() + 1); },
        "The instruction sets this CPU can run, the best one last.");
  m.def("level", [] { return std::string(names[current_level]); }, "The one in use.");
  m.def(
      "use_level",
      [](const std::string& name) {
        for (int i = 0; i <= best_level(); i++)
          if (name == names[i]) {
            current_level = i;
            return true;
          }
        return false;
      },
      "Use another one, for tests and benchmarks; false if this CPU cannot.");
  bind_bits(m);
  bind_columns(m);
  bind_formats(m);
  bind_layer(m);
  bind_clock(m);
  bind_lookup(m);
  bind_tree(m);
  bind_nearest(m);
  bind_products(m);
}
