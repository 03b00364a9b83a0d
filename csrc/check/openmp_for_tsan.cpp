// The part of OpenMP's runtime that the kernels use, on threads that ThreadSanitizer can follow. It
// does not see the barriers of libgomp, which is not instrumented and takes futexes, and reports races
// that are none; with these in their place, linked before libgomp's, every report is a real one.
// Only what GCC emits for `parallel`, `for` with a static or dynamic schedule, and their barriers.
#include <omp.h>

#include <atomic>
#include <barrier>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

thread_local int threads_wanted = 3;

// A loop with a dynamic schedule: entered by all threads of the team, one after another in time.
struct Loop {
  Loop(long start, long end, long step, long chunk) : next(start), end(end), step(step), chunk(chunk) {}
  std::atomic<long> next;
  const long end, step, chunk;
};

struct Team {
  explicit Team(int size) : size(size), barrier(size) {}
  int size;
  std::barrier<> barrier;
  std::mutex mutex;
  std::vector<std::unique_ptr<Loop>> loops;
};

thread_local Team* team = nullptr;
thread_local int number = 0;
thread_local std::size_t loops_entered = 0;
thread_local Loop* loop = nullptr;

bool next_chunk(long* begin, long* end) {
  const long first = loop->next.fetch_add(loop->chunk * loop->step, std::memory_order_relaxed);
  if (loop->step > 0 ? first >= loop->end : first <= loop->end) return false;
  *begin = first;
  *end = first + loop->chunk * loop->step;
  if (loop->step > 0 ? *end > loop->end : *end < loop->end) *end = loop->end;
  return true;
}

bool start_loop(long start, long stop, long step, long chunk, long* begin, long* end) {
  const std::lock_guard lock(team->mutex);  // every loop of the kernels stands in a parallel region
  if (team->loops.size() == loops_entered) team->loops.push_back(std::make_unique<Loop>(start, stop, step, chunk));
  loop = team->loops[loops_entered++].get();
  return next_chunk(begin, end);
}

}  // namespace

extern "C" {

int omp_get_max_threads() { return threads_wanted; }
void omp_set_num_threads(int threads) { threads_wanted = threads; }
int omp_get_num_threads() { return team ? team->size : 1; }
int omp_get_thread_num() { return number; }

void GOMP_barrier() { team->barrier.arrive_and_wait(); }

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  Team fresh(team ? 1 : int(threads ? threads : unsigned(threads_wanted)));
  const auto work = [&](int own_number) {
    Team* const outer_team = team;
    const int outer_number = number;
    team = &fresh, number = own_number, loops_entered = 0;
    body(data);
    team = outer_team, number = outer_number;
  };
  std::vector<std::thread> others;
  for (int i = 1; i < fresh.size; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& thread : others) thread.join();
}

bool GOMP_loop_dynamic_start(long start, long stop, long step, long chunk, long* begin, long* end) {
  return start_loop(start, stop, step, chunk, begin, end);
}
bool GOMP_loop_dynamic_next(long* begin, long* end) { return next_chunk(begin, end); }
bool GOMP_loop_nonmonotonic_dynamic_start(long start, long stop, long step, long chunk, long* begin, long* end) {
  return start_loop(start, stop, step, chunk, begin, end);
}
bool GOMP_loop_nonmonotonic_dynamic_next(long* begin, long* end) { return next_chunk(begin, end); }
void GOMP_loop_end() { GOMP_barrier(); }
void GOMP_loop_end_nowait() {}

}  // extern "C"
