// Batch normalisation and what follows it in a network, in one problem: the residual added to it,
// ReLU, 2×2 max-pooling and dropout, each optional.
//
//   output = dropout(pool(relu((input − mean) · invstd · weight + bias + residual)))
//
// Maps are NHWC, dense; mean and variance are of each channel over the rows (batch · height · width).
// Without pooling only the number of rows matters: a matrix is batch × 1 × 1 × channels.
//
// In the place of ReLU another activation, where nothing else follows: no residual, pooling or dropout.
//
// The backward needs no mask beside what the forward leaves anyway. Without pooling it reads the
// output: ReLU or dropout stopped the gradient exactly where it is zero; where there was an activation
// alone it computes from the input again what that let through. With pooling it reads one
// byte per pooled element, the position 0..3 of the maximum, or `pool_dead` where ReLU or dropout
// stopped the gradient. Dropout without ReLU and without pooling has neither, so it is not taken
// here (it has an operation of its own), and a residual is not taken together with pooling.
#pragma once
#include "conv.hpp"
#include "dropout.hpp"

namespace pyconvopt {

struct MapShape {
  int64_t batch, height, width, channels;
  int64_t rows() const { return batch * height * width; }
};

// Of the running statistics, rounded once: with a momentum of 1 it is the batch's.
[[gnu::always_inline]] inline float moved_average(double running, double batch, double momentum) {
  return float(momentum * batch + (1 - momentum) * running);
}

struct BatchNormForward {
  MapShape shape;
  const float* input;
  const float* weight = nullptr;    // channels, or null for ones
  const float* bias = nullptr;      // channels, or null for zeros
  const float* residual = nullptr;  // of the input's shape, or null
  bool training = true;             // the batch's own statistics; otherwise the running ones
  const float* moments = nullptr;   // training: the pieces' statistics (ConvForward::moments), or null
  int64_t moment_pieces = 0;
  // Training, where not null: running = momentum · batch + (1 − momentum) · running, with the unbiased variance.
  float* running_mean = nullptr;
  float* running_variance = nullptr;
  double momentum = 0.1, epsilon = 1e-5;
  Activation activation = Activation::none;
  bool pool = false;
  DropoutKey dropout;
  float* output = nullptr;        // pooled if `pool` is set; null: the statistics alone are wanted
  uint8_t* argmax = nullptr;      // of the output's shape, with `pool`
  float* saved_mean = nullptr;    // channels; what the output was made with
  float* saved_invstd = nullptr;  // channels; 1/√(variance + epsilon)
  bool again = false;             // the saved mean and invstd are given: the same output, to the bit, a second time
};

struct BatchNormBackward {
  MapShape shape;  // of the input
  const float* output_gradient;
  const float* input;
  const float* output = nullptr;    // with ReLU and no pooling; null, and other activations: from input and bias
  const uint8_t* argmax = nullptr;  // with pooling
  const float* weight = nullptr;
  const float* bias = nullptr;  // only to find out where the activation stopped the gradient
  const float* saved_mean = nullptr;
  const float* saved_invstd = nullptr;
  bool training = true;
  Activation activation = Activation::none;
  bool pool = false;
  double dropout_probability = 0;
  // Each may be null.
  float* input_gradient = nullptr;
  float* residual_gradient = nullptr;
  float* weight_gradient = nullptr;
  float* bias_gradient = nullptr;
  // Where both were found before: the input's gradient alone is wanted, without residual or pooling.
  const float *known_weight_gradient = nullptr, *known_bias_gradient = nullptr;
};

}  // namespace pyconvopt
