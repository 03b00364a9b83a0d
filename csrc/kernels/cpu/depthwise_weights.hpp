// The weights of a depthwise convolution, as its kernels want them: W[tap][C].
#pragma once
#include "../arena.hpp"
#include "depthwise.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise {

inline int64_t packed_floats(const ConvShape& s) { return s.kernel_height * s.kernel_width * s.in_channels; }

// W[tap][C] of weights at any strides.
inline void pack(const ConvShape& s, const float* weight, const WeightStrides& strides, float* packed) {
  for (int64_t r = 0; r < s.kernel_height; ++r)
    for (int64_t q = 0; q < s.kernel_width; ++q)
      for (int64_t c = 0; c < s.in_channels; ++c)
        *packed++ = weight[r * strides.row + q * strides.column + c * strides.out_channel];
}

class PackedWeights {
 public:
  // `prepared`: packed already, or null
  PackedWeights(const ConvShape& s, const float* weight, const WeightStrides& strides, const float* prepared)
      : kernel_width_(s.kernel_width),
        channels_(s.in_channels),
        space_(Workspace::bytes_for(prepared ? 0 : packed_floats(s))),
        packed_(prepared) {
    if (prepared) return;
    float* own = space_.floats(packed_floats(s));
    pack(s, weight, strides, own);
    packed_ = own;
  }
  const float* tap(int64_t r, int64_t q) const { return packed_ + (r * kernel_width_ + q) * channels_; }

 private:
  int64_t kernel_width_, channels_;
  Workspace space_;
  const float* packed_;
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise
