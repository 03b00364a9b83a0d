// What the emulated device offers to the sources of the kernels; emulator.cpp runs them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(8) float2 {
  float x, y;
};

namespace emulation {

struct Kernel {
  void (*run)(const void* call);
  const void* call;  // the kernel and its arguments, copied
  std::size_t bytes;
};
int launch(dim3 grid, dim3 block, Kernel kernel);  // a cudaError_t

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();

void block_barrier();
void warp_barrier(unsigned mask);
// Every lane of the mask gives its bits and gets those of the lane it names.
uint64_t exchange(unsigned mask, uint64_t bits, unsigned source);
unsigned vote(unsigned mask, bool predicate);
unsigned lane();

// An asynchronous copy to shared memory: its value is written when the thread waits for it.
struct Copy {
  float* to;
  float value;
  unsigned group;
};
void copy_later(float* to, float value);
void commit_copies();
bool next_copy(unsigned groups_left, Copy& copy);  // of those that a wait has to finish

// For the race detector: an access that may meet others of its kind.
void atomic_access(const void* at, std::size_t bytes);

}  // namespace emulation
