// Runs kernels as CUDA would, one block after another: every thread is a fiber that runs until it waits at
// a barrier, a shuffle or a vote. The order of blocks and of warps is drawn anew for every launch, so that a
// kernel that depends on it is found out; what cannot be on a GPU (a barrier that a thread of the block
// has left behind, a shuffle with a lane that is not there) ends the launch with a message.
#include "emulator.hpp"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <vector>

namespace emulation {
namespace {

constexpr std::size_t stack_bytes = 128 * 1024;
constexpr int invalid_configuration = 9, launch_failure = 719;  // of cudaError_t

enum class State { ready, at_block_barrier, at_warp, done };
enum class Collective { barrier, exchange, vote };

struct Fiber {
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  ucontext_t start;
  jmp_buf resume;
  State state;
  bool started;
  // What it brought to the collective operation of its warp, and what it gets.
  Collective collective;
  unsigned mask, source;
  uint64_t bits, result;
  std::deque<Copy> copies;  // not waited for yet
  unsigned copy_groups;
};

struct Warp {
  unsigned arrived = 0, interval = 0;
};

struct Device {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  jmp_buf scheduler;
  Kernel kernel;
  dim3 grid, block;
  uint3 block_at;
  unsigned threads = 0, launches = 0, block_number = 0, block_interval = 0;
  int current = -1;  // the thread that runs, -1 for the host
  bool failed = false;
  std::string message;
  std::mt19937 order{1};
};
Device device;

Fiber& fiber(unsigned thread) { return device.fibers[thread]; }
unsigned this_thread() { return unsigned(device.current); }

void enter() {
  device.kernel.run(device.kernel.call);
  fiber(this_thread()).state = State::done;
  _longjmp(device.scheduler, 1);
}

void run(unsigned thread) {
  device.current = int(thread);
  Fiber& f = fiber(thread);
  if (_setjmp(device.scheduler) == 0) {
    if (f.started) _longjmp(f.resume, 1);
    f.started = true;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.get();
    f.start.uc_stack.ss_size = stack_bytes;
    f.start.uc_link = nullptr;
    makecontext(&f.start, enter, 0);
    setcontext(&f.start);
  }
  device.current = -1;
}

void wait(State state) {
  Fiber& f = fiber(this_thread());
  f.state = state;
  if (_setjmp(f.resume) == 0) _longjmp(device.scheduler, 1);
}

unsigned first_of(unsigned warp) { return warp * lanes; }
unsigned end_of(unsigned warp) { return std::min(device.threads, (warp + 1) * lanes); }

// All lanes of the mask are there: gives each its result.
void complete(unsigned warp, unsigned mask) {
  Fiber* lane = &fiber(first_of(warp));
  const unsigned leader = unsigned(__builtin_ctz(mask));
  uint64_t votes = 0;
  for (unsigned l = 0; l < lanes; ++l) {
    if (!(mask >> l & 1)) continue;
    if (lane[l].mask != mask || lane[l].collective != lane[leader].collective)
      fail("lanes of one warp meet in different warp operations or with different masks");
    if (lane[l].collective == Collective::exchange && !(mask >> lane[l].source & 1))
      fail("a shuffle reads lane " + std::to_string(lane[l].source) + ", which takes no part in it");
    votes |= uint64_t(lane[l].bits != 0) << l;
  }
  for (unsigned l = 0; l < lanes; ++l) {
    if (!(mask >> l & 1)) continue;
    lane[l].result = lane[l].collective == Collective::vote ? votes : lane[lane[l].source].bits;
    lane[l].state = State::ready;
  }
  if (lane[leader].collective == Collective::barrier && mask == ~0u) ++device.warps[warp].interval;
  device.warps[warp].arrived &= ~mask;
}

uint64_t collective(Collective kind, unsigned mask, uint64_t bits, unsigned source) {
  const unsigned warp = this_thread() / lanes, own = 1u << lane();
  Fiber& f = fiber(this_thread());
  if (!(mask & own)) fail("a lane calls a warp operation with a mask that leaves it out");
  f.collective = kind;
  f.mask = mask;
  f.bits = bits;
  f.source = source;
  Warp& w = device.warps[warp];
  w.arrived |= own;
  f.state = State::at_warp;
  if ((w.arrived & mask) == mask) complete(warp, mask);
  if (f.state != State::ready || mask != own) wait(f.state);
  return f.result;
}

// Everything that is not done waits: for a barrier that can open now, or for ever.
bool release_barrier() {
  unsigned waiting = 0, done = 0;
  for (unsigned t = 0; t < device.threads; ++t) {
    if (fiber(t).state == State::at_block_barrier) ++waiting;
    if (fiber(t).state == State::done) ++done;
  }
  if (done == device.threads) return false;
  if (waiting < device.threads) {
    device.failed = true;
    device.message = std::to_string(waiting) + " of " + std::to_string(device.threads) +
                     " threads wait at a barrier, " + std::to_string(done) +
                     " have left, the rest waits for lanes of its warp that do not come";
    return false;
  }
  for (unsigned t = 0; t < device.threads; ++t) fiber(t).state = State::ready;
  ++device.block_interval;
  return true;
}

void run_block() {
  begin_block();
  device.block_interval = 0;
  device.warps.assign((device.threads + lanes - 1) / lanes, {});
  for (unsigned t = 0; t < device.threads; ++t)
    fiber(t).state = State::ready, fiber(t).started = false, fiber(t).copies.clear(), fiber(t).copy_groups = 0;
  std::vector<unsigned> order(device.warps.size());
  for (unsigned w = 0; w < order.size(); ++w) order[w] = w;
  do {
    bool progress = true;
    while (progress) {
      progress = false;
      std::shuffle(order.begin(), order.end(), device.order);
      for (const unsigned warp : order) {
        bool ran = false;
        for (unsigned t = first_of(warp); t < end_of(warp); ++t) {
          if (fiber(t).state != State::ready) continue;
          run(t);
          if (device.failed) return;
          ran = true;
        }
        if (ran) end_warp_slice();
        progress |= ran;
      }
    }
  } while (release_barrier());
}

}  // namespace

bool running() { return device.current >= 0; }

Moment now() {
  return {device.launches, device.block_number, this_thread() + 1, device.block_interval,
          device.warps[this_thread() / lanes].interval};
}

bool on_own_stack(const void* at) {
  const char* low = fiber(this_thread()).stack.get();
  return at >= low && at < low + stack_bytes;
}

std::string describe(const Moment& m) {
  return "thread " + std::to_string(m.thread - 1) + " of block " + std::to_string(m.block - 1);
}

void fail(const std::string& message) {
  device.failed = true;
  device.message = message;
  _longjmp(device.scheduler, 1);
}

int launch(dim3 grid, dim3 block, Kernel kernel) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return invalid_configuration;
  device.kernel = kernel;
  device.grid = grid;
  device.block = block;
  device.threads = unsigned(threads);
  device.failed = false;
  if (device.fibers.size() < threads) device.fibers.resize(threads);
  ++device.launches;
  begin_launch(kernel);
  std::vector<uint64_t> order(uint64_t(grid.x) * grid.y * grid.z);
  for (uint64_t b = 0; b < order.size(); ++b) order[b] = b;
  std::shuffle(order.begin(), order.end(), device.order);
  for (const uint64_t b : order) {
    device.block_number = unsigned(b + 1);
    device.block_at = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    run_block();
    if (device.failed) {
      device.message = "block (" + std::to_string(device.block_at.x) + ", " + std::to_string(device.block_at.y) + ", " +
                       std::to_string(device.block_at.z) + "): " + device.message;
      return launch_failure;
    }
  }
  return 0;
}

uint3 thread_index() {
  const unsigned t = this_thread();
  return {t % device.block.x, t / device.block.x % device.block.y, t / device.block.x / device.block.y};
}
uint3 block_index() { return device.block_at; }
dim3 block_size() { return device.block; }
dim3 grid_size() { return device.grid; }
unsigned lane() { return this_thread() % lanes; }

void block_barrier() { wait(State::at_block_barrier); }
void warp_barrier(unsigned mask) { collective(Collective::barrier, mask, 0, lane()); }
uint64_t exchange(unsigned mask, uint64_t bits, unsigned source) {
  return collective(Collective::exchange, mask, bits, source);
}
void copy_later(float* to, float value) {
  Fiber& f = fiber(this_thread());
  f.copies.push_back({to, value, f.copy_groups});
}
void commit_copies() { ++fiber(this_thread()).copy_groups; }
bool next_copy(unsigned groups_left, Copy& copy) {
  Fiber& f = fiber(this_thread());
  if (f.copies.empty() || f.copies.front().group + groups_left >= f.copy_groups) return false;
  copy = f.copies.front();
  f.copies.pop_front();
  return true;
}

unsigned vote(unsigned mask, bool predicate) { return unsigned(collective(Collective::vote, mask, predicate, lane())); }

}  // namespace emulation

extern "C" __attribute__((visibility("default"))) const char* emulation_message() {
  return emulation::device.message.c_str();
}
extern "C" __attribute__((visibility("default"))) void emulation_seed(unsigned seed) {
  emulation::device.order.seed(seed);
}
