// What the machine can do at most: every row is to be read against these two.
#include <omp.h>

#include <cstring>

#include "multiply_add.hpp"
#include "registry.hpp"

namespace pyconvopt::benchmarks {
namespace {

constexpr int64_t steps = 1 << 18;
constexpr int64_t copied = 256 << 20;

const cpu::MultiplyAdd& multiply_add() {
  switch (active_isa()) {
#if PYCONVOPT_HAS_avx512
    case Isa::avx512: return cpu::avx512::multiply_add;
#endif
#if PYCONVOPT_HAS_avx2
    case Isa::avx2: return cpu::avx2::multiply_add;
#endif
    default: return cpu::baseline::multiply_add;
  }
}

// All threads; operations in registers alone.
void fma_peak(benchmark::State& state) {
  const cpu::MultiplyAdd& loop = multiply_add();
  int64_t threads = 0;
  for (auto _ : state) {
    threads = 0;
#pragma omp parallel reduction(+ : threads)
    {
      alignas(64) float values[1024];
      for (int i = 0; i < 1024; ++i) values[i] = 0.5f;
      loop.run(steps, values);
      benchmark::DoNotOptimize(values);
      threads += 1;
    }
  }
  count(state, double(threads) * double(steps) * double(loop.flops_per_step), 0);
}

// Each thread copies its share of 256 MiB by one memcpy, which for so long a block writes past the
// caches; bytes read and bytes written are counted.
void copy(benchmark::State& state) {
  Buffers buffers(true);
  const uint8_t* from = buffers.bytes(copied);
  uint8_t* to = buffers.bytes(copied);
  for (auto _ : state) {
#pragma omp parallel
    {
      const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
      const int64_t begin = copied * thread / threads, end = copied * (thread + 1) / threads;
      std::memcpy(to + begin, from + begin, size_t(end - begin));
    }
    benchmark::ClobberMemory();
  }
  count(state, 0, 2.0 * double(copied));
}

}  // namespace

void add_machine() {
  benchmark::RegisterBenchmark("machine/fma_peak", fma_peak)->UseRealTime()->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("machine/copy", copy)->UseRealTime()->Unit(benchmark::kMillisecond);
}

}  // namespace pyconvopt::benchmarks
