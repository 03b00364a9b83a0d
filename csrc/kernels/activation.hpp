// ReLU, and the sums over rows that make a bias gradient.
#pragma once
#include "kernel.hpp"

namespace pyconvopt {

struct ReluForward {
  int64_t size;
  const float* input;
  float* output = nullptr;
};

// input_gradient = output_gradient where the output is positive or NaN, else 0.
struct ReluBackward {
  int64_t rows, channels;
  const float* output_gradient;
  const float* output;
  float* input_gradient = nullptr;
  float* channel_sum = nullptr;  // Σ of the result over the rows, or null
};

struct ChannelSum {
  int64_t rows, channels;
  const float* input;
  float* sum = nullptr;
};

}  // namespace pyconvopt
