// What batch normalisation does to an element, (x − mean) · a + bias with a = weight · invstd, and the
// activation after it: one expression for both passes, so that the backward finds again, to the bit,
// where the activation stopped the forward, and need not read the output.
#pragma once
#include "../norm.hpp"
#include "activated.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

struct Affine {
  Vec mean, a, bias;
  PYCONVOPT_INLINE Vec operator()(Vec x) const { return (x - mean) * a + bias; }
};

struct AffineLines {
  float *mean, *a, *bias;  // padded to whole vectors

  template <class Problem>
  AffineLines(const Problem& p, float* space, int64_t padded)
      : mean(space), a(space + padded), bias(space + 2 * padded) {
    for (int64_t i = 0; i < 3 * padded; ++i) space[i] = 0;
    for (int64_t c = 0; c < p.shape.channels; ++c) {
      mean[c] = p.saved_mean[c];
      a[c] = (p.weight ? p.weight[c] : 1.0f) * p.saved_invstd[c];
      bias[c] = p.bias ? p.bias[c] : 0.0f;
    }
  }
  PYCONVOPT_INLINE Affine at(int64_t c) const { return {load(mean + c), load(a + c), load(bias + c)}; }
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
