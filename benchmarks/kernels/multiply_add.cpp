// Two units with a latency of four or five cycles want ten chains at least; as many as fit into the
// registers beside the two factors are run.
#include "multiply_add.hpp"

#include "cpu/vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

constexpr int chains = vector_registers - 4;

// Nothing is computed, but the compiler must have the value in a vector register here.
PYCONVOPT_INLINE void keep(Vec& value) {
#if defined(__aarch64__)
  asm volatile("" : "+w"(value));
#else
  asm volatile("" : "+v"(value));
#endif
}

void run(int64_t steps, float* values) {
  Vec sums[chains];
#pragma GCC unroll 32
  for (int i = 0; i < chains; ++i) sums[i] = load(values + i * lanes);
  const Vec factor = load(values + 512), term = load(values + 512 + lanes);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32
    for (int i = 0; i < chains; ++i) {
      sums[i] = sums[i] * factor + term;
      keep(sums[i]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < chains; ++i) store(values + i * lanes, sums[i]);
}

}  // namespace

extern const MultiplyAdd multiply_add;
const MultiplyAdd multiply_add{2 * lanes * chains, run};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
