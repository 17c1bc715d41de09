// Finds races in shared memory, whatever the values and the order of the threads, and accesses of
// any memory that are not aligned.
//
// With HALUT_RACES, kernels are built by -fsanitize=thread and this file is the sanitizer's run-time:
// every access of a kernel calls __tsan_*. Of each byte of shared memory the last writer and the
// readers of the current interval between two barriers are kept; two threads that reach one byte in
// one interval, one of them writing, race. __syncwarp orders the threads of a warp; shuffles exchange
// registers and order no memory. An asynchronous copy writes from its issue until it is waited for:
// until then its own thread races with it as others do. Atomics race with what is not atomic.
//
// With -fsanitize=alignment, accesses at addresses that their type does not allow call
// __ubsan_handle_type_mismatch_v1: a GPU stops at them, a CPU does not.
#pragma once

#define UNWATCHED __attribute__((no_sanitize("thread"), noinline))

namespace shim {
namespace races {

enum Access { reads, writes, adds, copies, arrives };

struct Byte {
  uint32_t write_interval, write_warp_interval, read_interval, read_warp_interval;
  int16_t writer, reader;
  Access how;
  bool readers, warps;  // more than one of them has read
};

inline constexpr size_t most_shared = 1 << 17;
alignas(64) inline unsigned char arena[most_shared];
inline Byte bytes[most_shared];
inline size_t used = 0;
inline uint32_t interval = 1;
inline uint32_t warp_interval[32];

UNWATCHED inline void* take(size_t size) {
  const size_t at = (used + 63) / 64 * 64;
  used = at + size;
  return used > most_shared ? nullptr : arena + at;
}

UNWATCHED inline const char* name_of(size_t at, size_t* index) {
  for (const Allocation& each : allocations) {
    const size_t first = static_cast<unsigned char*>(each.memory) - arena;
    if (at < first || at >= first + each.size) continue;
    *index = (at - first) / each.unit;
    return each.name;
  }
  return "?";
}

// `before`: the thread that was there first, -1 of several.
UNWATCHED inline void found(const char* what, size_t at, int before, int t) {
  size_t index = 0;
  const char* name = name_of(at, &index);
  char who[16] = "several";
  if (before >= 0) snprintf(who, sizeof who, "%d", before);
  fail("a race: %s of %s[%zu], thread %d after %s", what, name, index, t, who);
}

// Thread t, or a copy it has issued, reaches `size` bytes at `to`.
UNWATCHED inline void access(const void* to, size_t size, Access how, int t) {
  const size_t first = reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(arena);
  if (first >= most_shared) return;  // not shared
  const int warp = t / 32;
  const uint32_t now = warp_interval[warp];
  for (size_t at = first; at < first + size; at++) {
    Byte& b = bytes[at];
    if (b.write_interval == interval && how != arrives) {
      const bool own = b.writer == t && b.how != copies;
      const bool ordered = b.writer / 32 == warp && b.write_warp_interval != now;
      if (!own && !(ordered && b.how != copies) && !(how == adds && b.how == adds)) {
        return found(how == reads ? "read after write" : "write after write", at, b.writer, t);
      }
    }
    if (how == reads) {
      const bool again = b.read_interval == interval;
      b.warps = again && (b.warps || b.reader / 32 != warp);
      b.readers = again && (b.readers || b.reader != t);
      b.read_interval = interval;
      b.read_warp_interval = now;
      b.reader = static_cast<int16_t>(t);
      continue;
    }
    if (b.read_interval == interval) {
      const bool own = !b.readers && b.reader == t;
      const bool ordered = !b.warps && b.reader / 32 == warp && b.read_warp_interval != now;
      if (!own && !ordered) {
        return found("write after read", at, b.readers ? -1 : b.reader, t);
      }
    }
    b.write_interval = interval;
    b.write_warp_interval = now;
    b.writer = static_cast<int16_t>(t);
    b.how = how;
  }
}

UNWATCHED inline void by_current(const void* to, size_t size, Access how) {
  if (current) access(to, size, how, static_cast<int>(current->index.x));
}

// A barrier let the block go on: copies in flight write in the new interval too.
UNWATCHED inline void block_released() {
  interval++;
  for (const Fiber& fiber : fibers) {
    for (const Copy& copy : fiber.copies) {
      access(copy.to, copy.size, copies, static_cast<int>(fiber.index.x));
    }
  }
}

UNWATCHED inline void warp_released(size_t warp) { warp_interval[warp]++; }

UNWATCHED inline void give_back() {
  used = 0;
  interval++;
}

}  // namespace races
}  // namespace shim

extern "C" {
struct Mismatch {  // what the compiler passes
  const char* file;
  uint32_t line, column;
  const void* type;
  unsigned char log_alignment, kind;
};

UNWATCHED void __ubsan_handle_type_mismatch_v1(const Mismatch* which, uintptr_t address) {
  const int alignment = 1 << which->log_alignment;
  shim::fail("an access in line %u at %d bytes behind a multiple of %d", which->line,
             static_cast<int>(address % alignment), alignment);
}

UNWATCHED void __tsan_init() {}
UNWATCHED void __tsan_func_entry(void*) {}
UNWATCHED void __tsan_func_exit() {}
UNWATCHED void __tsan_vptr_update(void**, void*) {}
UNWATCHED void __tsan_vptr_read(void**) {}
#define HALUT_ACCESS(name, kind, bytes) \
  UNWATCHED void __tsan_##name(void* p) { shim::races::by_current(p, bytes, shim::races::kind); }
#define HALUT_ACCESSES(bytes)                    \
  HALUT_ACCESS(read##bytes, reads, bytes)            \
  HALUT_ACCESS(write##bytes, writes, bytes)          \
  HALUT_ACCESS(unaligned_read##bytes, reads, bytes)  \
  HALUT_ACCESS(unaligned_write##bytes, writes, bytes)
HALUT_ACCESSES(1)
HALUT_ACCESSES(2)
HALUT_ACCESSES(4)
HALUT_ACCESSES(8)
HALUT_ACCESSES(16)
UNWATCHED void __tsan_read_range(void* p, unsigned long size) {
  shim::races::by_current(p, size, shim::races::reads);
}
UNWATCHED void __tsan_write_range(void* p, unsigned long size) {
  shim::races::by_current(p, size, shim::races::writes);
}
UNWATCHED void* __tsan_memcpy(void* to, const void* from, unsigned long size) {
  shim::races::by_current(from, size, shim::races::reads);
  shim::races::by_current(to, size, shim::races::writes);
  return memcpy(to, from, size);
}
UNWATCHED void* __tsan_memmove(void* to, const void* from, unsigned long size) {
  shim::races::by_current(from, size, shim::races::reads);
  shim::races::by_current(to, size, shim::races::writes);
  return memmove(to, from, size);
}
UNWATCHED void* __tsan_memset(void* to, int value, unsigned long size) {
  shim::races::by_current(to, size, shim::races::writes);
  return memset(to, value, size);
}
}
