// What batch normalisation does to an element, in the forward and again in the backward pass: the backward
// decides by the very same operations where ReLU was.
#pragma once
#include "channels.cuh"

namespace pyconvopt::cuda {

struct Affine {
  const float *mean, *invstd, *weight, *bias;

  // (x − mean) · invstd · weight + bias of four neighbours whose channels the cursor knows.
  template <Neighbours neighbours>
  __device__ __forceinline__ void apply(const ChannelCursor& cursor, float (&x)[4]) const {
    float m[4], s[4], w[4] = {1, 1, 1, 1}, b[4] = {0, 0, 0, 0};
    cursor.gather<neighbours>(mean, m);
    cursor.gather<neighbours>(invstd, s);
    if (weight) cursor.gather<neighbours>(weight, w);
    if (bias) cursor.gather<neighbours>(bias, b);
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] = one(x[k], m[k], s[k], w[k], b[k]);
  }
  static __device__ __forceinline__ float one(float x, float m, float s, float w, float b) {
    return fmaf(x - m, s * w, b);
  }
};

// The same in registers, for threads that stay with their `lines` channels.
template <int lines>
struct AffineRegisters {
  float mean[lines], invstd[lines], weight[lines], bias[lines];

  __device__ AffineRegisters(const Affine& from, int64_t channel) {
    load(from.mean + channel, mean);
    load(from.invstd + channel, invstd);
#pragma unroll
    for (int k = 0; k < lines; ++k) weight[k] = 1, bias[k] = 0;
    if (from.weight) load(from.weight + channel, weight);
    if (from.bias) load(from.bias + channel, bias);
  }
  __device__ __forceinline__ float apply(int k, float x) const {
    return Affine::one(x, mean[k], invstd[k], weight[k], bias[k]);
  }
};

// kernel.template operator()<neighbours>() for how a thread's four elements lie in channels. Fours of
// channels are loaded as one, so the lines of values a channel must be aligned.
template <class Kernel>
int with_neighbours(const PyconvoptMap& shape, bool aligned_lines, Kernel kernel) {
  switch (neighbours_of(shape)) {
    case Neighbours::one_channel: return kernel.template operator()<Neighbours::one_channel>();
    case Neighbours::four_channels:
      if (aligned_lines) return kernel.template operator()<Neighbours::four_channels>();
      [[fallthrough]];
    default: return kernel.template operator()<Neighbours::any>();
  }
}

}  // namespace pyconvopt::cuda
