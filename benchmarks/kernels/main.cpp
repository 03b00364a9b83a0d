// The kernels alone: one row a layer of ../layers.inc and kernel that takes it, after two rows for what
// the machine can do. Threads are OMP_NUM_THREADS, the instruction set PYCONVOPT_ISA.
//
//   kernel_benchmarks [--batch=8] --benchmark_filter='winograd.*resnet18'
#include <cstdlib>
#include <iostream>

#include "registry.hpp"

namespace {

// Takes --batch=N out of the arguments; 8 without it, 0 for something else.
int64_t take_batch(int& count, char** arguments) {
  constexpr std::string_view option = "--batch=";
  int64_t batch = 8;
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    const std::string_view argument = arguments[i];
    if (argument.substr(0, option.size()) == option) batch = std::atoll(arguments[i] + option.size());
    else arguments[kept++] = arguments[i];
  }
  count = kept;
  return batch;
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t batch = take_batch(count, arguments);
  if (batch < 1) {
    std::cerr << "--batch takes a number of images of at least 1\n";
    return 2;
  }
  benchmark::AddCustomContext("instruction_set", pyconvopt::isa_name(pyconvopt::active_isa()));
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 2;
  pyconvopt::benchmarks::add_machine();
  pyconvopt::benchmarks::add_layers(batch);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
