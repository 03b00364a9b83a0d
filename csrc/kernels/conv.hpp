// 2-D convolution: problem structures of its three passes.
//
// Activations are NHWC (channels last), dense; weights are addressed by four strides, so that both
// of torch's memory formats, and the flipped and transposed weights of the data gradient, are the
// same thing to a kernel.
#pragma once
#include "kernel.hpp"

namespace pyconvopt {

// No stride, padding or dilation may be larger, and no weight have more elements (of strides that may be 0): then
// nothing below overflows for maps that fit a memory.
inline constexpr int64_t largest_hyper = INT32_MAX, largest_weight = int64_t(1) << 48, largest_size = int64_t(1) << 48;

struct ConvShape {
  int64_t batch, in_channels, in_height, in_width;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t stride_height = 1, stride_width = 1;
  int64_t padding_height = 0, padding_width = 0;
  int64_t dilation_height = 1, dilation_width = 1;
  int64_t groups = 1;

  int64_t out_height() const {
    return (in_height + 2 * padding_height - dilation_height * (kernel_height - 1) - 1) / stride_height + 1;
  }
  int64_t out_width() const {
    return (in_width + 2 * padding_width - dilation_width * (kernel_width - 1) - 1) / stride_width + 1;
  }
};

struct WeightStrides {
  int64_t out_channel, in_channel, row, column;
};

// What is done to each element of an input while it is read: activation((x − mean) · weight · invstd + bias) of its
// channel, as BatchNormForward does it, to the bit. The pixels around the map stay zero.
struct InputNorm {
  const float *mean, *invstd;
  const float* weight = nullptr;  // null for ones
  const float* bias = nullptr;    // null for zeros
  Activation activation = Activation::none;
};

// output = activation(convolution(input, weight) + bias + residual), then, if `pool` is set, 2×2 max-pooling
// with stride 2 (with ReLU or no activation, and no residual): `output` then holds the pooled map and `argmax` one byte
// per pooled element, the position 0..3 of the maximum in its window, or `pool_dead` where ReLU stopped the gradient.
struct ConvForward {
  ConvShape shape;
  const float* input;
  const float* weight;
  WeightStrides weight_strides;
  const float* bias = nullptr;  // out_channels, or null
  Activation activation = Activation::none;
  bool pool = false;
  float* output = nullptr;
  uint8_t* argmax = nullptr;
  const float* residual = nullptr;  // of the output's shape, or null
  bool keeps = false;               // the weight stays as it is: it is worth preparing
  const float* prepared = nullptr;  // what the kernel's `prepare` made of it, or null
  // Of each channel of the output, for the batch norm that follows; null, or with neither activation, pooling nor
  // residual. The kernel's `moment_pieces` lines of `moment_line` floats, one for each piece of the rows: their means,
  // then the sums of squared differences from these, then how many rows the piece has.
  float* moments = nullptr;
  const InputNorm* norm = nullptr;  // of the input, or null
};
inline bool is_plain(const ConvForward& p) { return p.activation == Activation::none && !p.pool && !p.residual; }
inline int64_t moment_line(int64_t channels) { return 2 * channels + 1; }
inline constexpr uint8_t pool_dead = 4;

// In both gradients `argmax` says that the output's gradient is that of the pooled map (see
// ConvForward): it is spread over the windows while it is read, and the map between is never stored.
struct ConvDataGradient {
  ConvShape shape;
  const float* output_gradient;
  const float* weight;
  WeightStrides weight_strides;
  float* input_gradient = nullptr;
  const uint8_t* argmax = nullptr;
};

struct ConvWeightGradient {
  ConvShape shape;
  const float* input;
  const float* output_gradient;
  float* weight_gradient = nullptr;
  WeightStrides weight_strides;
  const uint8_t* argmax = nullptr;
  float* bias_gradient = nullptr;   // out_channels, or null; only with `argmax`
  const InputNorm* norm = nullptr;  // of the input, or null
};

// What is done to the gradient of a map behind batch norm and activation while it is read, so that it becomes that of
// the map z in front of them: with g what the activation let through,
//   dz = weight · invstd · (g − bias_gradient / rows − (z − mean) · invstd · weight_gradient / rows).
struct OutputNorm {
  const float* map;                              // z
  InputNorm norm;                                // of z, by its own statistics
  const float *weight_gradient, *bias_gradient;  // what BatchNormBackward found
};

// Both gradients of a convolution whose output a batch norm in training alone reads: the gradient between the two is
// never stored.
struct ConvGradients {
  ConvShape shape;
  const float* input;
  const InputNorm* norm = nullptr;  // of the input, or null
  const float* output_gradient;     // behind the batch norm of the output
  OutputNorm output_norm;
  const float* weight;
  WeightStrides weight_strides;
  float* input_gradient = nullptr;
  float* weight_gradient = nullptr;
  WeightStrides weight_gradient_strides;
  // Of the input's norm, or null: what BatchNormBackward finds from the input's gradient.
  float* norm_weight_gradient = nullptr;
  float* norm_bias_gradient = nullptr;
};

}  // namespace pyconvopt
