// Sees every access to memory that a kernel makes, and ends the launch at the first that is wrong.
//
// The kernels are compiled with -fsanitize=thread, which puts a call of __tsan_read4(address) and its kin
// before every load and store; these functions are ours, the sanitizer's own library is not linked. So the
// sources need no instrumentation, and nothing that the compiler knows as memory is missed.
//
// An access is wrong
//   - outside the buffers that the test has registered, the shared memory and the thread's own stack, or
//     if it writes to a buffer registered as constant, or at an address its size does not divide;
//   - if it reads shared memory that the block has not written;
//   - if another thread accesses the same byte, one of both writes (not both atomically), and nothing orders
//     them: no barrier of the block or of the whole warp between them; threads of two blocks never are.
//
// It also counts: bytes, 32-byte sectors (how many of those that the warps of a load touch were asked for says
// how well it is coalesced) and conflicts of shared memory's 32 banks.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "emulator.hpp"

// Bounds of this library's zero-initialised data, by the linker: where `static`, that is `__shared__`, lies.
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[], __ehdr_start[];

namespace emulation {
namespace {

struct Trace {
  Moment moment{};  // launch 0: never
  bool atomic = false;
};
// One byte of memory. Two readers suffice: a third writer would differ from one of them.
struct Cell {
  Trace writer, readers[2];
};

struct Buffer {
  std::string name;
  const char* begin;
  std::size_t bytes;
  bool writable;
  std::vector<Cell> cells;
};

struct WarpAccess {
  const void* instruction;
  unsigned lane, order;  // order: how often this lane has been here before
  uintptr_t at;
  unsigned bytes;
  bool shared;
};

struct Recorder {
  std::vector<Buffer> buffers;
  Buffer shared{"shared memory", nullptr, 0, true, {}};
  const char* arguments = nullptr;
  std::size_t argument_bytes = 0;
  unsigned block_runs = 0;
  bool tracing = false;
  std::size_t traced_bytes = 0;  // buffers below this size are left out
  std::vector<WarpAccess> slice;
  std::array<uint64_t, 5> counters{};  // see emulation_counters
};
Recorder recorder;
enum { bytes_read, bytes_written, sectors, sector_bytes_asked, bank_conflicts };

bool inside(const char* at, std::size_t bytes, const char* begin, std::size_t size) {
  return at >= begin && at + bytes <= begin + size;
}

std::string place(const char* at, std::size_t bytes) {
  for (const Buffer& b : recorder.buffers)
    if (at + bytes > b.begin - 4096 && at < b.begin + b.bytes + 4096)
      return std::to_string(at - b.begin) + " bytes into " + b.name + " of " + std::to_string(b.bytes) + " bytes";
  return "outside every buffer";
}

// Whether nothing orders the two accesses; `past` came first.
bool concurrent(const Trace& past, const Moment& m) {
  const Moment& p = past.moment;
  if (p.launch != m.launch) return false;
  if (p.block != m.block) return true;
  if (p.thread == m.thread || p.block_interval != m.block_interval) return false;
  return (p.thread - 1) / lanes != (m.thread - 1) / lanes || p.warp_interval == m.warp_interval;
}

void mark(Buffer& buffer, const char* at, std::size_t bytes, bool write, bool atomic, const Moment& m) {
  if (buffer.cells.empty()) buffer.cells.resize(buffer.bytes);
  const auto meets = [&](const Trace& past, const char* what) {
    if (concurrent(past, m) && !(past.atomic && atomic))
      fail("race on byte " + std::to_string(at - buffer.begin) + " of " + buffer.name + ": " + describe(m) +
           (write ? " writes" : " reads") + " what " + describe(past.moment) + " has " + what +
           ", with no barrier between");
  };
  for (std::size_t i = 0; i < bytes; ++i) {
    Cell& cell = buffer.cells[std::size_t(at - buffer.begin) + i];
    if (&buffer == &recorder.shared && !write && cell.writer.moment.launch != m.launch)
      fail(describe(m) + " reads shared memory that its block has not written");
    meets(cell.writer, "written");
    if (write) {
      meets(cell.readers[0], "read");
      meets(cell.readers[1], "read");
      cell.writer = {m, atomic};
    } else if (!concurrent(cell.readers[0], m)) {
      cell.readers[0] = {m, atomic};
    } else {
      cell.readers[1] = {m, atomic};
    }
  }
}

void access(const void* address, std::size_t bytes, bool write, bool atomic, const void* instruction) {
  if (!running() || on_own_stack(address)) return;
  const char* at = static_cast<const char*>(address);
  Moment m = now();
  const bool single = bytes <= 16 && (bytes & (bytes - 1)) == 0;
  const auto log = [&](bool shared, std::size_t size) {
    if (recorder.tracing && size >= recorder.traced_bytes)
      recorder.slice.push_back({instruction, (m.thread - 1) % lanes, 0, uintptr_t(at), unsigned(bytes), shared});
  };
  if (single && uintptr_t(at) % bytes)
    fail(describe(m) + ": misaligned access of " + std::to_string(bytes) + " bytes, " + place(at, bytes));
  for (Buffer& b : recorder.buffers) {
    if (!inside(at, bytes, b.begin, b.bytes)) continue;
    if (write && !b.writable) fail(describe(m) + " writes to " + b.name + ", which is constant");
    mark(b, at, bytes, write, atomic, m);
    recorder.counters[write ? bytes_written : bytes_read] += bytes;
    return log(false, b.bytes);
  }
  if (inside(at, bytes, recorder.shared.begin, recorder.shared.bytes)) {
    m.launch = recorder.block_runs;  // shared memory begins anew with every block
    mark(recorder.shared, at, bytes, write, atomic, m);
    return log(true, recorder.traced_bytes);
  }
  const bool constants = inside(at, bytes, __ehdr_start, std::size_t(__bss_start - __ehdr_start));
  if (!write && (constants || inside(at, bytes, recorder.arguments, recorder.argument_bytes))) return;
  fail(describe(m) + (write ? " writes " : " reads ") + std::to_string(bytes) + " bytes " + place(at, bytes));
}

// The accesses that the lanes of a warp made at the same instruction for the same time.
void count_together(const WarpAccess* first, const WarpAccess* last) {
  std::vector<uintptr_t> units;
  const auto distinct = [&](const WarpAccess* begin, const WarpAccess* end, unsigned unit) {
    units.clear();
    for (const WarpAccess* a = begin; a != end; ++a)
      for (uintptr_t u = a->at / unit; u <= (a->at + a->bytes - 1) / unit; ++u) units.push_back(u);
    std::sort(units.begin(), units.end());
    units.erase(std::unique(units.begin(), units.end()), units.end());
    return units.size();
  };
  if (!first->shared) {
    recorder.counters[sectors] += distinct(first, last, 32);
    recorder.counters[sector_bytes_asked] += distinct(first, last, 1);
    return;
  }
  // Wider accesses are served a half or a quarter of the warp at a time.
  const std::ptrdiff_t together = 128 / std::max(4u, first->bytes);
  for (; first < last; first += together) {
    distinct(first, std::min(first + together, last), 4);
    std::array<unsigned, 32> words{};
    for (const uintptr_t word : units) ++words[word % 32];
    recorder.counters[bank_conflicts] += *std::max_element(words.begin(), words.end()) - 1;
  }
}

}  // namespace

void begin_launch(const Kernel& kernel) {
  recorder.arguments = static_cast<const char*>(kernel.call);
  recorder.argument_bytes = kernel.bytes;
  recorder.shared.begin = __bss_start;
  recorder.shared.bytes = std::size_t(_end - __bss_start);
}

void begin_block() { ++recorder.block_runs; }

void end_warp_slice() {
  std::vector<WarpAccess>& slice = recorder.slice;
  if (slice.empty()) return;
  std::stable_sort(slice.begin(), slice.end(), [](const WarpAccess& a, const WarpAccess& b) {
    return std::pair(a.instruction, a.lane) < std::pair(b.instruction, b.lane);
  });
  for (std::size_t i = 1; i < slice.size(); ++i)
    if (slice[i].instruction == slice[i - 1].instruction && slice[i].lane == slice[i - 1].lane)
      slice[i].order = slice[i - 1].order + 1;
  std::stable_sort(slice.begin(), slice.end(), [](const WarpAccess& a, const WarpAccess& b) {
    return std::pair(a.instruction, a.order) < std::pair(b.instruction, b.order);
  });
  for (auto first = slice.begin(); first != slice.end();) {
    const auto last = std::find_if(first, slice.end(), [&](const WarpAccess& a) {
      return a.instruction != first->instruction || a.order != first->order;
    });
    count_together(&*first, &*first + (last - first));
    first = last;
  }
  slice.clear();
}

void atomic_access(const void* at, std::size_t bytes) { access(at, bytes, true, true, __builtin_return_address(0)); }

}  // namespace emulation

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void emulation_register(const char* name, const void* begin, std::size_t bytes, int writable) {
  emulation::recorder.buffers.push_back({name, static_cast<const char*>(begin), bytes, writable != 0, {}});
}
EXPORT void emulation_forget() { emulation::recorder.buffers.clear(); }
EXPORT void emulation_trace(int on, std::size_t least_bytes) {
  emulation::recorder.tracing = on != 0;
  emulation::recorder.traced_bytes = least_bytes;
}
// Since the last call: bytes read and written in global memory; and while tracing: sectors touched by warps, bytes
// asked for in them (both in buffers of at least `least_bytes`), bank conflicts.
EXPORT void emulation_counters(uint64_t* to) {
  std::copy(emulation::recorder.counters.begin(), emulation::recorder.counters.end(), to);
  emulation::recorder.counters = {};
}

// --- what the compiler calls -----------------------------------------------------------------------

#define ACCESS(bytes)                                                       \
  EXPORT void __tsan_read##bytes(const void* p) {                           \
    emulation::access(p, bytes, false, false, __builtin_return_address(0)); \
  }                                                                         \
  EXPORT void __tsan_write##bytes(const void* p) {                          \
    emulation::access(p, bytes, true, false, __builtin_return_address(0));  \
  }
#define UNALIGNED(bytes)                                                    \
  EXPORT void __tsan_unaligned_read##bytes(const void* p) {                 \
    emulation::access(p, bytes, false, false, __builtin_return_address(0)); \
  }                                                                         \
  EXPORT void __tsan_unaligned_write##bytes(const void* p) {                \
    emulation::access(p, bytes, true, false, __builtin_return_address(0));  \
  }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)
EXPORT void __tsan_read_range(const void* p, std::size_t bytes) {
  emulation::access(p, bytes, false, false, __builtin_return_address(0));
}
EXPORT void __tsan_write_range(const void* p, std::size_t bytes) {
  emulation::access(p, bytes, true, false, __builtin_return_address(0));
}
EXPORT void __tsan_func_entry(void*) {}
EXPORT void __tsan_func_exit() {}
EXPORT void __tsan_init() {}
