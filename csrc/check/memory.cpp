// The arena: alignment, reuse, its cap, and what happens where there is no memory.
#include <cstdint>
#include <new>

#include "arena.hpp"
#include "check.hpp"

namespace pyconvopt::check {
namespace {

constexpr std::size_t huge_page = std::size_t(2) << 20;

void expect(bool holds, const char* what) {
  if (!holds) report().fail(std::string("arena: ") + what);
}

bool refused(std::size_t bytes) {
  try {
    const Workspace space(bytes);
    return false;
  } catch (const std::bad_alloc&) {
    return true;
  }
}

}  // namespace

void check_memory() {
  arena_release();
  expect(arena_bytes() == 0, "bytes are held after a release");
  float* first;
  {
    Workspace space(3 * huge_page - 100);
    first = space.floats(1);
    float* second = space.floats(17);
    expect(reinterpret_cast<uintptr_t>(first) % huge_page == 0, "a block does not start at a huge page");
    expect(second == first + 16, "pieces are not aligned to cache lines");
    expect(arena_bytes() == 3 * huge_page, "a block is not rounded up to huge pages");
  }
  {
    Workspace space(huge_page);
    expect(space.floats(1) == first && arena_bytes() == 3 * huge_page, "an idle block is not taken again");
    bool thrown = false;
    try {
      space.floats(std::size_t(1) << 40);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    expect(thrown, "more was cut off a block than it holds");
  }
  arena_set_cap(2 * huge_page);
  expect(arena_bytes() == 0, "what is idle above the cap is kept");
  {
    const Workspace a(huge_page), b(huge_page), c(huge_page);
    expect(arena_bytes() == 3 * huge_page, "blocks in use were given back");
  }
  expect(arena_bytes() == 2 * huge_page, "the cap does not hold after use");
  arena_set_cap(std::size_t(1) << 30);
  expect(refused(SIZE_MAX) && refused(SIZE_MAX - huge_page / 2) && refused(std::size_t(1) << 62),
         "a size that no memory has was granted");
  expect(arena_bytes() == 0, "idle blocks were kept while an allocation failed");
}

}  // namespace pyconvopt::check
