#include "map_memory.hpp"

#include <sys/mman.h>

#include <map>
#include <mutex>
#include <unordered_map>

namespace pyconvopt {
namespace {

constexpr std::size_t reserved = std::size_t(1) << 38;  // addresses, not memory
constexpr std::size_t step = std::size_t(16) << 20;     // what the writable part grows by
constexpr std::size_t line = 64;

// Maps follow each other at an odd number of lines, so that those read and written together do not lie
// at the same place of a page each: their loads would wait for stores to another address.
std::size_t piece(std::size_t bytes) { return ((bytes + line - 1) / line | 1) * line; }

// Whether malloc would get as much at once. Pages of the range are not counted against the machine's memory: without
// the question a map of more than there is would be granted, and end the process while it is written.
bool machine_has(std::size_t bytes) {
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return address != MAP_FAILED && !munmap(address, bytes);
}

struct Range {
  std::mutex mutex;
  char* begin = nullptr;
  bool refused = false;                      // there are no addresses, as under a limit of them
  std::size_t end = 0, writable = 0;         // pieces and holes lie before the one, memory before the other
  std::map<std::size_t, std::size_t> holes;  // offset, bytes; no two touch
  std::unordered_map<std::size_t, std::size_t> taken;

  // For a piece of `size`.
  bool grow(std::size_t to, std::size_t size) {
    if (refused) return false;
    if (!begin) {
      void* address = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      refused = address == MAP_FAILED;
      if (refused) return false;
      begin = static_cast<char*>(address);
      madvise(begin, reserved, MADV_HUGEPAGE);  // advice only
    }
    if (to <= writable) return true;
    const std::size_t wanted = (to + step - 1) / step * step;
    if (wanted > reserved || !machine_has(size)) return false;
    if (mprotect(begin + writable, wanted - writable, PROT_READ | PROT_WRITE)) return false;
    writable = wanted;
    return true;
  }

  void* take(std::size_t bytes) {
    const std::size_t size = piece(bytes);
    if (size < bytes || size > reserved) return nullptr;
    const std::lock_guard lock(mutex);
    auto best = holes.end();
    for (auto hole = holes.begin(); hole != holes.end(); ++hole)
      if (hole->second >= size && (best == holes.end() || hole->second < best->second)) best = hole;
    std::size_t at = end;
    if (best != holes.end()) {
      const std::size_t rest = best->second - size;
      at = best->first;
      holes.erase(best);
      if (rest) holes.emplace(at + size, rest);
    } else {
      const bool last_is_a_hole = !holes.empty() && holes.rbegin()->first + holes.rbegin()->second == end;
      if (last_is_a_hole) at = holes.rbegin()->first;
      if (!grow(at + size, size)) return nullptr;
      if (last_is_a_hole) holes.erase(at);
      end = at + size;
    }
    taken.emplace(at, size);
    return begin + at;
  }

  void give_back(void* address) {
    const std::lock_guard lock(mutex);
    const auto known = taken.find(std::size_t(static_cast<char*>(address) - begin));
    std::size_t at = known->first, size = known->second;
    taken.erase(known);
    const auto after = holes.lower_bound(at);
    if (after != holes.begin())
      if (const auto before = std::prev(after); before->first + before->second == at) {
        at = before->first, size += before->second;
        holes.erase(before);
      }
    if (after != holes.end() && after->first == at + size) {
      size += after->second;
      holes.erase(after);
    }
    holes.emplace(at, size);
  }

  void release() {
    const std::lock_guard lock(mutex);
    constexpr std::size_t page = 4096;
    for (const auto& [at, size] : holes) {
      const std::size_t first = (at + page - 1) / page * page, last = (at + size) / page * page;
      if (first < last) madvise(begin + first, last - first, MADV_DONTNEED);
    }
  }
};

Range& range() {
  static Range* range = new Range;  // never destroyed: tensors may go while the process ends
  return *range;
}

}  // namespace

void* take_map(std::size_t bytes) { return range().take(bytes); }
void give_back_map(void* address) { range().give_back(address); }
void release_maps() { range().release(); }

std::size_t map_bytes() {
  const std::lock_guard lock(range().mutex);
  return range().writable;
}

void map_memory_lock() { range().mutex.lock(); }
void map_memory_unlock() { range().mutex.unlock(); }

}  // namespace pyconvopt
