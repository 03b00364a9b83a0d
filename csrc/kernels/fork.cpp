// Only the forking thread lives on in a child. libgomp does not know: the child's first parallel region
// would wait for ever for the threads of its parent's pool. So the pool is given up before every fork;
// parent and child each start a new one when they need it (about 50 µs). That holds for every user of
// the runtime in the process, torch's operators among them. The locks of arena and maps are held over the
// fork, so that no child inherits them from a thread that it has not got.
#include "fork.hpp"

#include <omp.h>
#include <pthread.h>

#include "arena.hpp"
#include "map_memory.hpp"

namespace pyconvopt {

void survive_forks() {
  const auto prepare = [] {
    omp_pause_resource_all(omp_pause_soft);  // refused inside a parallel region, where nobody forks
    arena_lock();
    map_memory_lock();
  };
  const auto resume = [] {
    map_memory_unlock();
    arena_unlock();
  };
  pthread_atfork(prepare, resume, resume);
}

}  // namespace pyconvopt
