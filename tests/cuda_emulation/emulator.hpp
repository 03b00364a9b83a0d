// What the scheduler (emulator.cpp) and the recorder of memory accesses (recorder.cpp) know of each other.
#pragma once
#include <string>

#include "emulation.hpp"

namespace emulation {

// The thread that runs, and when: accesses of one block on both sides of a barrier cannot meet.
struct Moment {
  unsigned launch, block, thread;          // numbers, each counted from 1 on, of the launch and within it
  unsigned block_interval, warp_interval;  // barriers passed by the block, by the warp
};
bool running();  // a kernel's thread, not the host's code
Moment now();
bool on_own_stack(const void* at);
// Ends the launch with an error and this message.
[[noreturn]] void fail(const std::string& message);
std::string describe(const Moment&);

// Called by the scheduler.
void begin_launch(const Kernel& kernel);
void begin_block();
void end_warp_slice();  // the lanes of a warp have run to where each waits

inline constexpr unsigned lanes = 32;

}  // namespace emulation
