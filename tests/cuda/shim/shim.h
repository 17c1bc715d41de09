// Runs kernels of kernels/cuda on the CPU, for their numbers and the order of their threads.
//
// A block's threads are fibers. Each runs until it waits at a barrier, for its warp or at its end;
// then the next one does, in forward, reverse or shuffled order. So a thread sees what others have
// written exactly if something made it wait for them. Shared memory starts as garbage, has its exact
// size (AddressSanitizer sees every step beyond), and asynchronous copies arrive when waited for,
// no sooner. Barriers that threads reach in different places, or not at all, are errors. With
// HALUT_RACES races in shared memory and misaligned accesses are errors too: races.h.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define HALUT_SHIM
#define DEVICE inline
#define __global__ HALUT_GLOBAL
#define __launch_bounds__(...)
#define HALUT_GLOBAL
#define INFINITE __builtin_inff()
#define SHARED(type, name, count) \
  type* const name = static_cast<type*>(shim::shared(sizeof(type) * (count), sizeof(type), #name))
#define __syncthreads() shim::wait_block(__LINE__)
#define __syncwarp(...) shim::wait(shim::at_warp, __LINE__)
#define __trap() shim::fail("a kernel trapped in line %d", __LINE__)

namespace shim {

struct Index {
  unsigned x;
};

enum State { ready, at_block, at_warp, done };

struct Copy {
  void* to;
  const void* from;
  int bytes, size, group;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  State state;
  int line;
  size_t shared_calls;
  Index index;
  uint32_t value;  // offered to the warp
  int group;       // of asynchronous copies
  std::vector<Copy> copies;
};

struct Allocation {  // shared memory
  void* memory;
  size_t size, unit;
  const char* name;
};

inline std::vector<Fiber> fibers;
inline Fiber* current = nullptr;
inline ucontext_t scheduler;
inline std::vector<Allocation> allocations;
inline void (*kernel)(void**);  // and the addresses of its arguments
inline void** arguments;
inline Index block, block_size;
inline char message[256];
inline bool failed = false;
inline int removed_line = 0;  // its barrier is passed as if it were not there

inline void fail(const char* format, ...) {
  if (!failed) {
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
  }
  failed = true;
  if (current) swapcontext(&current->context, &scheduler);  // never to come back
}

}  // namespace shim

#ifdef HALUT_RACES
#include "races.h"
#define RACES(call) shim::races::call
#else
#define RACES(call) static_cast<void>(0)
#define UNWATCHED inline
#endif

namespace shim {

#ifdef HALUT_RACES
using races::give_back, races::take;
constexpr int garbage = 0;  // so that what is read too early leads to no address beyond memory
#else
constexpr int garbage = 0xcd;
inline void* take(size_t size) { return malloc(size); }
inline void give_back() {
  for (const Allocation& each : allocations) free(each.memory);
}
#endif

// The k-th call of every thread of a block answers the same memory.
inline void* shared(size_t size, size_t unit, const char* name) {
  const size_t k = current->shared_calls++;
  if (k == allocations.size()) {
    void* memory = take(size);
    if (!memory) fail("more shared memory than there is");
    memset(memory, garbage, size);
    allocations.push_back({memory, size, unit, name});
  }
  if (allocations[k].size != size) fail("threads disagree about shared memory");
  return allocations[k].memory;
}

inline void wait(State state, int line) {
  current->state = state;
  current->line = line;
  swapcontext(&current->context, &scheduler);
}

inline void wait_block(int line) {
  if (line != removed_line) wait(at_block, line);
}

// The value that lane `from` of this thread's warp offers.
inline uint32_t of_lane(uint32_t mask, uint32_t value, unsigned from) {
  if (mask != 0xffffffffu) fail("shuffles of part of a warp are not modeled");
  current->value = value;
  wait(at_warp, -1);
  const uint32_t other = fibers[current->index.x / 32 * 32 + from % 32].value;
  wait(at_warp, -2);  // nobody offers the next value before all have read this one
  return other;
}

// Lets threads [first, last) go on if all of them wait for it.
inline bool release(size_t first, size_t last, State state) {
  for (size_t t = first; t < last; t++) {
    if (fibers[t].state != state) return false;
  }
  for (size_t t = first; t < last; t++) {
    if (fibers[t].line != fibers[first].line) {
      fail("threads wait at barriers in lines %d and %d", fibers[t].line, fibers[first].line);
      return false;
    }
  }
  if (state == at_block) {
    RACES(block_released());
  } else if (fibers[first].line > 0) {  // __syncwarp
    RACES(warp_released(first / 32));
  }
  for (size_t t = first; t < last; t++) fibers[t].state = ready;
  return true;
}

inline void body() {
  kernel(arguments);
  current->state = done;
  swapcontext(&current->context, &scheduler);
}

// A linear congruential generator shuffles the threads, if its state is not 0.
inline void run_block(std::vector<size_t>& order, uint64_t& random) {
  const size_t threads = fibers.size();
  for (size_t t = 0; t < threads; t++) {
    Fiber& fiber = fibers[t];
    fiber.state = ready;
    fiber.shared_calls = 0;
    fiber.group = 0;
    fiber.copies.clear();
    fiber.index.x = static_cast<unsigned>(t);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
  }
  for (bool running = true; running && !failed;) {
    for (size_t t = threads - 1; random && t > 0; t--) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      std::swap(order[t], order[(random >> 33) % (t + 1)]);
    }
    bool progress = false;
    for (size_t t : order) {
      while (fibers[t].state == ready && !failed) {
        progress = true;
        current = &fibers[t];
        swapcontext(&scheduler, &current->context);
        current = nullptr;
      }
      const size_t warp = t / 32 * 32, end = warp + 32 < threads ? warp + 32 : threads;
      if (fibers[t].state == at_warp) progress |= release(warp, end, at_warp);
      if (failed) return;
    }
    size_t ended = 0;
    for (const Fiber& fiber : fibers) ended += fiber.state == done;
    running = ended < threads;
    if (running) progress |= release(0, threads, at_block);
    if (running && !progress && !failed) {
      fail("threads wait for others that never come: %zu of %zu have ended", ended, threads);
    }
  }
}

// Blocks first .. last of a grid; schedule 0 forward, 1 reverse, 2 shuffled. Returns 0, or 1 with
// the reason in `error`.
inline int run(void (*call)(void**), void** values, unsigned first, unsigned last,
               unsigned threads, int schedule, char* error) {
  kernel = call;
  arguments = values;
  failed = false;
  block_size.x = threads;
#if defined(__SANITIZE_ADDRESS__)
  const size_t stack = 1 << 18;
#else
  const size_t stack = 1 << 16;
#endif
  if (fibers.size() != threads) {
    fibers.clear();
    fibers.resize(threads);
    for (Fiber& fiber : fibers) fiber.stack.resize(stack);
  }
  uint64_t random = schedule == 2;
  std::vector<size_t> order(threads);
  for (size_t t = 0; t < threads; t++) order[t] = schedule == 1 ? threads - 1 - t : t;
  for (unsigned b = first; b < last && !failed; b++) {
    block.x = b;
    run_block(order, random);
    give_back();
    allocations.clear();
  }
  if (failed) snprintf(error, sizeof message, "block %u: %s", block.x, message);
  return failed;
}

// The sizes of a kernel's parameters, and a call with their addresses.
template <class... A, size_t... I>
void invoke(void (*f)(A...), void** values, std::index_sequence<I...>) {
  f(*static_cast<std::remove_const_t<A>*>(values[I])...);
}
template <class... A>
void invoke(void (*f)(A...), void** values) {
  invoke(f, values, std::make_index_sequence<sizeof...(A)>());
}
template <class... A>
int sizes(void (*)(A...), int* out) {
  int i = 0;
  ((out[i++] = sizeof(A)), ...);
  return sizeof...(A);
}

}  // namespace shim

extern "C" {  // in braces: no kernel
void remove_barrier(int line) { shim::removed_line = line; }
}

#define LAUNCHER(name)                                                                         \
  extern "C" int sizes_##name(int* out) { return shim::sizes(name, out); }                     \
  extern "C" int launch_##name(void** values, unsigned first, unsigned last, unsigned threads, \
                               int schedule, char* error) {                                    \
    return shim::run([](void** with) { shim::invoke(name, with); }, values, first, last,       \
                     threads, schedule, error);                                                \
  }

// ---- what CUDA C++ offers and the kernels use

#define threadIdx (shim::current->index)
#define blockIdx (shim::block)
#define blockDim (shim::block_size)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

template <class To, class From>
inline To bits_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &value, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float value) { return bits_cast<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return bits_cast<float>(value); }
inline float __fmul_rn(float a, float b) { return a * b; }  // built without contraction
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdividef(float a, float b) { return a / b; }

inline int opaque(int value) { return value; }

inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned chosen = selector >> (4 * i) & 0xf;
    if (chosen > 7) shim::fail("replicated signs are not modeled");
    out |= static_cast<unsigned>(bytes >> (8 * chosen) & 0xff) << (8 * i);
  }
  return out;
}

inline float __shfl_sync(unsigned mask, float value, int lane) {
  return __uint_as_float(shim::of_lane(mask, __float_as_uint(value), lane));
}
inline float __shfl_xor_sync(unsigned mask, float value, int other) {
  return __uint_as_float(
      shim::of_lane(mask, __float_as_uint(value), shim::current->index.x % 32 ^ other));
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (int i = 0; i < 32; i += 8) sum += (a >> i & 0xff) * (b >> i & 0xff);
  return sum;
}
template <class T, class Value>
UNWATCHED void atomicAdd(T* to, Value value) {
  RACES(by_current(to, sizeof(T), shim::races::adds));
  *to += value;
}

inline float float_of_half(unsigned short bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float sign = bits & 0x8000 ? -1.f : 1.f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITE;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

inline unsigned short half_of_float(float value) {  // to nearest, ties to even
  const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (value != value) return 0x7fff;
  if (size >= 65520.f) return sign | 0x7c00;
  int exponent;
  std::frexp(size, &exponent);  // size = f * 2^exponent, f in [0.5, 1)
  if (exponent < -13) exponent = -13;
  const float units = std::nearbyint(std::ldexp(size, 11 - exponent));
  const float rounded = std::ldexp(units, exponent - 11);
  if (rounded < std::ldexp(1.f, -14)) {
    return sign | static_cast<unsigned short>(std::ldexp(rounded, 24));
  }
  std::frexp(rounded, &exponent);
  const int fraction = static_cast<int>(std::ldexp(rounded, 11 - exponent)) - 1024;
  return sign | static_cast<unsigned short>((exponent + 14) << 10 | fraction);
}

template <int BYTES>
inline void copy_async(void* to, const void* from, int bytes) {
  if (reinterpret_cast<uintptr_t>(to) % BYTES || reinterpret_cast<uintptr_t>(from) % BYTES) {
    shim::fail("an asynchronous copy of %d bytes is not aligned", BYTES);
  }
  RACES(by_current(to, BYTES, shim::races::copies));
  shim::current->copies.push_back({to, from, bytes, BYTES, shim::current->group});
}
inline void copy_commit() { shim::current->group++; }
template <int LEFT>
inline void copy_wait() {
  auto& copies = shim::current->copies;
  size_t kept = 0;
  for (const shim::Copy& copy : copies) {
    if (copy.group < shim::current->group - LEFT) {
      RACES(by_current(copy.to, copy.size, shim::races::arrives));
      memset(copy.to, 0, copy.size);
      memcpy(copy.to, copy.from, copy.bytes);
    } else {
      copies[kept++] = copy;
    }
  }
  copies.resize(kept);
}
