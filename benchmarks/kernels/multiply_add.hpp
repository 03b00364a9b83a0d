// A loop of nothing but independent multiply-adds in registers, for each instruction set.
#pragma once
#include <cstdint>

namespace pyconvopt::cpu {

// Runs `steps` of `flops_per_step` operations; reads and writes values[0 .. 1023].
struct MultiplyAdd {
  int64_t flops_per_step;
  void (*run)(int64_t steps, float* values);
};

#if PYCONVOPT_HAS_baseline
namespace baseline {
extern const MultiplyAdd multiply_add;
}
#endif
#if PYCONVOPT_HAS_avx2
namespace avx2 {
extern const MultiplyAdd multiply_add;
}
#endif
#if PYCONVOPT_HAS_avx512
namespace avx512 {
extern const MultiplyAdd multiply_add;
}
#endif

}  // namespace pyconvopt::cpu
