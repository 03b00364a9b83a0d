// Working memory of kernels: kept between calls, on huge pages where the system has them.
//
// A training step asks for the same few sizes over and over. Fresh memory costs a page fault per
// 4 KiB; a third of the time of a small network's step. Blocks are therefore kept in a pool and
// handed out again. The pool gives back what exceeds its cap.
#pragma once
#include <cstddef>

namespace pyconvopt {

[[noreturn]] void out_of_memory(std::size_t bytes);  // a std::bad_alloc that says how many

// std::bad_alloc where there is no memory. It must not leave an OpenMP region: make workspaces before.
class Workspace {
 public:
  explicit Workspace(std::size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Cuts the next `count` elements off the block, aligned to a cache line.
  float* floats(std::size_t count) { return static_cast<float*>(take(count * sizeof(float))); }
  static constexpr std::size_t bytes_for(std::size_t floats) { return (floats * sizeof(float) + 127) / 64 * 64; }

 private:
  void* take(std::size_t bytes);
  char* block_;
  std::size_t capacity_, used_ = 0;
};

std::size_t arena_bytes();  // held now, in use or not
std::size_t arena_cap();
void arena_set_cap(std::size_t bytes);  // default 1 GiB; what is idle above it is given back
void arena_release();                   // gives back everything idle
void arena_lock();                      // no block changes hands until arena_unlock(); see fork.cpp
void arena_unlock();

// malloc maps every block above 128 KiB afresh, unmaps it when freed, and gives the end of its heap back:
// a page fault per 4 KiB of each activation, every step. This has it keep all for the next step instead, or
// be as it was and give back what it can. Whole process; without effect where malloc is not glibc's.
void keep_freed_memory(bool keep);
bool freed_memory_is_kept();

}  // namespace pyconvopt
