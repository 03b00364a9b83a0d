// What the benchmarks share: the buffers of a problem, and the registration of every kernel that takes it.
#pragma once
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.hpp"

namespace pyconvopt::benchmarks {

// Tensors of one problem. Before a benchmark runs nothing is allocated: a problem is then built on one
// shared element, only to ask which kernels take it.
class Buffers {
 public:
  explicit Buffers(bool allocate) : allocate_(allocate) {}

  float* floats(int64_t count) {
    float* values = static_cast<float*>(take(size_t(count) * sizeof(float)));
    uint32_t state = 1;
    for (int64_t i = 0; allocate_ && i < count; ++i) {  // numbers in −1 … 1 (Numerical Recipes' generator)
      state = state * 1664525u + 1013904223u;
      values[i] = float(int32_t(state)) * 0x1p-31f;
    }
    return values;
  }
  float* ones(int64_t count) {
    float* values = static_cast<float*>(take(size_t(count) * sizeof(float)));
    for (int64_t i = 0; allocate_ && i < count; ++i) values[i] = 1.0f;
    return values;
  }
  uint8_t* bytes(int64_t count) {  // positions 0 … 3
    uint8_t* values = static_cast<uint8_t*>(take(size_t(count)));
    for (int64_t i = 0; allocate_ && i < count; ++i) values[i] = uint8_t(i & 3);
    return values;
  }

 private:
  void* take(size_t size) {
    blocks_.emplace_back(std::aligned_alloc(64, allocate_ ? (size + 63) / 64 * 64 : 64), std::free);
    if (!blocks_.back()) throw std::bad_alloc();
    return blocks_.back().get();
  }

  bool allocate_;
  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
};

inline void count(benchmark::State& state, double flops, double bytes) {
  using benchmark::Counter;
  if (flops > 0) state.counters["FLOP/s"] = Counter(flops, Counter::kIsIterationInvariantRate);
  if (bytes > 0) state.counters["bytes/s"] = Counter(bytes, Counter::kIsIterationInvariantRate);
}

// Registers type/kernel/label for each kernel of the table that takes the problem `make` builds, those
// of the instruction set in use. The plain loops are left out unless they alone were asked for.
template <class P, class Make>
void add(const char* type, const std::string& label, double flops, double bytes, const Make& make) {
  const bool plain = active_isa() == Isa::reference;
  for (const KernelName& row : kernel_names()) {
    if (row.problem != type || row.isa != isa_name(active_isa())) continue;
    if (!plain && row.kernel == "reference") continue;
    Buffers probe(false);
    try {
      find<P>(make(probe), row.kernel);
    } catch (const std::invalid_argument&) {
      continue;
    }
    const auto body = [=](benchmark::State& state) {
      Buffers buffers(true);
      const P problem = make(buffers);
      const Kernel<P>& kernel = find<P>(problem, row.kernel);
      kernel.run(problem);
      for (auto _ : state) kernel.run(problem);
      count(state, flops, bytes);
    };
    const std::string name = std::string(type) + '/' + row.kernel + '/' + label;
    benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMillisecond);
  }
}

void add_machine();              // the multiply-add peak and a copy
void add_layers(int64_t batch);  // every line of layers.inc

}  // namespace pyconvopt::benchmarks
