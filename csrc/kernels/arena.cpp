#include "arena.hpp"

#include "map_memory.hpp"

#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <new>
#include <vector>

namespace pyconvopt {
namespace {

constexpr std::size_t huge_page = std::size_t(2) << 20;

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::size_t bytes) {
    std::snprintf(text_, sizeof text_, "out of memory: cannot allocate %zu bytes of working memory", bytes);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[80];
};

struct Block {
  char* address;
  std::size_t size;
};

// Of the system, not of malloc: its heap would have holes where blocks have been, and keep them.
char* map_block(std::size_t size) {
  void* mapped = mmap(nullptr, size + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  const std::size_t before = (huge_page - reinterpret_cast<std::uintptr_t>(begin) % huge_page) % huge_page;
  if (before) munmap(begin, before);
  if (before < huge_page) munmap(begin + before + size, huge_page - before);
  madvise(begin + before, size, MADV_HUGEPAGE);  // advice only: without it the block works just as well
  return begin + before;
}

struct Pool {
  std::mutex mutex;
  std::vector<Block> idle;
  std::size_t held = 0, blocks = 0;  // idle or not
  std::size_t cap = std::size_t(1) << 30;

  // The smallest idle block that is large enough, or a new one in the place of the largest that is not: who asks for
  // more and more would leave a row of smaller ones behind.
  Block take(std::size_t bytes) {
    // More than an address can reach is what a product of sizes looks like that has overflowed.
    if (bytes > std::size_t(PTRDIFF_MAX) - huge_page) out_of_memory(bytes);
    const std::size_t size = (bytes + huge_page - 1) / huge_page * huge_page;
    const std::lock_guard lock(mutex);
    auto best = idle.end();
    for (auto block = idle.begin(); block != idle.end(); ++block)
      if (block->size >= size && (best == idle.end() || block->size < best->size)) best = block;
    if (best != idle.end()) {
      const Block block = *best;
      idle.erase(best);
      return block;
    }
    const auto smaller = [](const Block& a, const Block& b) { return a.size < b.size; };
    if (const auto largest = std::max_element(idle.begin(), idle.end(), smaller); largest != idle.end()) drop(largest);
    idle.reserve(blocks + 1);  // so that giving back, in destructors, never has to allocate
    char* address = map_block(size);
    if (!address) {
      shrink(0);
      address = map_block(size);
    }
    if (!address) out_of_memory(bytes);
    held += size;
    ++blocks;
    return {address, size};
  }

  void give_back(Block block) {
    const std::lock_guard lock(mutex);
    idle.push_back(block);
    shrink(cap);
  }

  void shrink(std::size_t limit) {
    while (held > limit && !idle.empty()) drop(idle.begin());
  }

  void drop(std::vector<Block>::iterator block) {
    munmap(block->address, block->size);
    held -= block->size;
    --blocks;
    idle.erase(block);
  }
};

Pool& pool() {
  static Pool* pool = new Pool;  // never destroyed: kernels may run while the process ends
  return *pool;
}

}  // namespace

void out_of_memory(std::size_t bytes) { throw OutOfMemory(bytes); }

Workspace::Workspace(std::size_t bytes) {
  const Block block = pool().take(bytes ? bytes : 1);
  block_ = block.address;
  capacity_ = block.size;
}

Workspace::~Workspace() { pool().give_back({block_, capacity_}); }

void* Workspace::take(std::size_t bytes) {
  char* address = block_ + used_;
  used_ += (bytes + 63) / 64 * 64;
  if (used_ > capacity_) throw std::bad_alloc();  // a kernel asked for less than it cut off
  return address;
}

void arena_lock() { pool().mutex.lock(); }
void arena_unlock() { pool().mutex.unlock(); }

namespace {
bool keeps_freed_memory = false;
}

void keep_freed_memory(bool keep) {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, keep ? 0 : 65536);  // and glibc's own figures
  mallopt(M_TRIM_THRESHOLD, keep ? -1 : 128 << 10);
  mallopt(M_TOP_PAD, keep ? 16 << 20 : 128 << 10);
  if (!keep) malloc_trim(0), release_maps();
  keeps_freed_memory = keep;
#else
  (void)keep;
#endif
}

bool freed_memory_is_kept() { return keeps_freed_memory; }

std::size_t arena_cap() {
  const std::lock_guard lock(pool().mutex);
  return pool().cap;
}

std::size_t arena_bytes() {
  const std::lock_guard lock(pool().mutex);
  return pool().held;
}

void arena_set_cap(std::size_t bytes) {
  const std::lock_guard lock(pool().mutex);
  pool().cap = bytes;
  pool().shrink(bytes);
}

void arena_release() {
  const std::lock_guard lock(pool().mutex);
  pool().shrink(0);
}

}  // namespace pyconvopt
