// The arena: alignment, reuse, its cap, and what happens where there is no memory. The memory of maps:
// no two pieces overlap, and what is given back is joined and taken again.
#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "arena.hpp"
#include "check.hpp"
#include "map_memory.hpp"

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
  } catch (const std::bad_alloc& error) {
    return std::strstr(error.what(), std::to_string(bytes).c_str());
  }
}

void expect_of_maps(bool holds, const char* what) {
  if (!holds) report().fail(std::string("maps: ") + what);
}

struct Map {
  unsigned char* address;
  std::size_t bytes;
  int mark;
  bool intact() const {
    for (std::size_t i = 0; i < bytes; i += 4093)
      if (address[i] != mark) return false;
    return address[bytes - 1] == mark;
  }
};

void check_maps() {
  constexpr std::size_t some = smallest_map;
  void* first = take_map(16 * some);
  if (!first) return;  // no addresses to be had
  expect_of_maps(reinterpret_cast<uintptr_t>(first) % 64 == 0, "a map is not aligned to a cache line");
  void* second = take_map(some);
  give_back_map(first);
  expect_of_maps(take_map(16 * some) == first, "the place of a map of the same size is not taken again");
  give_back_map(first);
  give_back_map(second);
  const std::size_t before = map_bytes();
  first = take_map(17 * some);
  expect_of_maps(map_bytes() == before, "places next to each other are not joined");
  give_back_map(first);

  std::mt19937 random(1);
  std::vector<Map> maps;
  bool intact = true;
  for (int turn = 0; turn < 2000; ++turn) {
    if (maps.size() < 12 || random() % 2) {
      const std::size_t bytes = 1 + random() % (4 * some);
      const Map map{static_cast<unsigned char*>(take_map(bytes)), bytes, turn % 251};
      std::memset(map.address, map.mark, bytes);
      maps.push_back(map);
    } else {
      const std::size_t chosen = random() % maps.size();
      intact &= maps[chosen].intact();
      give_back_map(maps[chosen].address);
      maps[chosen] = maps.back();
      maps.pop_back();
    }
    if (maps.size() > 40) {
      for (const Map& map : maps) intact &= map.intact(), give_back_map(map.address);
      maps.clear();
      release_maps();
    }
  }
  for (const Map& map : maps) intact &= map.intact(), give_back_map(map.address);
  expect_of_maps(intact, "a map was written over by another");
  expect_of_maps(!take_map(SIZE_MAX) && !take_map(std::size_t(1) << 62), "a size that no memory has was granted");
}

}  // namespace

void check_memory() {
  check_maps();
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
  {
    const Workspace larger(4 * huge_page);
    expect(arena_bytes() == 4 * huge_page, "an idle block was kept beside a larger one in its place");
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
         "a size that no memory has was granted, or the error does not say it");
  expect(arena_bytes() == 0, "idle blocks were kept while an allocation failed");
}

}  // namespace pyconvopt::check
