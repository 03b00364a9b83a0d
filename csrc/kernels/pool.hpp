// 2×2 max-pooling with stride 2, NHWC; an odd last row or column belongs to no window.
//
// One byte per pooled element remembers where its maximum lies, 0..3 as 2·row + column, against the
// eight bytes of an int64 index. The backward also takes the bytes that a fused convolution or batch
// normalisation left, where `pool_dead` means that ReLU or dropout stopped the gradient.
#pragma once
#include "conv.hpp"
#include "norm.hpp"

namespace pyconvopt {

struct MaxPoolForward {
  MapShape shape;  // of the input
  const float* input;
  float* output = nullptr;
  uint8_t* argmax = nullptr;
};

struct MaxPoolBackward {
  MapShape shape;  // of the input
  const float* output_gradient;
  const uint8_t* argmax;
  float* input_gradient = nullptr;  // every element is written
  float* channel_sum = nullptr;     // Σ of the input's gradient a channel (a convolution's bias gradient), or null
};

}  // namespace pyconvopt
