// Memory of the large maps that operators return, kept for the next ones.
//
// glibc asks a hole for more than a tensor's size (its alignment may need it), so that a map never fits
// where one of the same size has been, and a training step's heap grows to half as much again as is in
// use. Here the pieces of one range of addresses are handed out to the byte and joined again.
#pragma once
#include <cstddef>

namespace pyconvopt {

constexpr std::size_t smallest_map = std::size_t(1) << 20;  // bytes; below, malloc does well

void* take_map(std::size_t bytes);  // aligned to 64 bytes; null where malloc is to be asked
void give_back_map(void* address);  // of `take_map`
void release_maps();                // gives what is idle back to the system
std::size_t map_bytes();            // what the process has got for maps, idle or not

void map_memory_lock();  // over a fork
void map_memory_unlock();

}  // namespace pyconvopt
