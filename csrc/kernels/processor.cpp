#include "processor.hpp"

#include <unistd.h>

namespace pyconvopt {
namespace {

int64_t told(int name, int64_t otherwise) {
  const long value = sysconf(name);
  return value > 0 ? value : otherwise;
}

}  // namespace

#ifdef _SC_LEVEL2_CACHE_SIZE
int64_t first_level_ways() {
  static const int64_t ways = told(_SC_LEVEL1_DCACHE_ASSOC, 8);
  return ways;
}
int64_t second_level_cache() {
  static const int64_t bytes = told(_SC_LEVEL2_CACHE_SIZE, int64_t(1) << 20);
  return bytes;
}
#else
int64_t first_level_ways() { return 8; }
int64_t second_level_cache() { return int64_t(1) << 20; }
#endif

}  // namespace pyconvopt
