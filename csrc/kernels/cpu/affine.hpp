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
  float *mean, *a, *bias;  // padded with zeros

  AffineLines() : mean(nullptr), a(nullptr), bias(nullptr) {}
  // In `floats(channels)` of space.
  AffineLines(const InputNorm& norm, int64_t channels, float* space)
      : mean(space), a(space + line(channels)), bias(space + 2 * line(channels)) {
    for (int64_t i = 0; i < floats(channels); ++i) space[i] = 0;
    for (int64_t c = 0; c < channels; ++c) {
      mean[c] = norm.mean[c];
      a[c] = (norm.weight ? norm.weight[c] : 1.0f) * norm.invstd[c];
      bias[c] = norm.bias ? norm.bias[c] : 0.0f;
    }
  }
  // A vector that begins at any channel lies in its line.
  static int64_t line(int64_t channels) { return round_up(channels, 16) + lanes; }
  static int64_t floats(int64_t channels) { return 3 * line(channels); }
  PYCONVOPT_INLINE Affine at(int64_t c) const { return {load(mean + c), load(a + c), load(bias + c)}; }
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
