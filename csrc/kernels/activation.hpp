// ReLU and the activations with exponentials, and the sums over rows that make a bias gradient.
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

// σ is 1 / (1 + exp(−x)), Φ the normal distribution function.
enum class Function : int {
  tanh,
  elu,        // scale · x where x > 0, else scale · alpha · (exp(x) − 1); SELU is one of these
  gelu,       // x · Φ(x)
  gelu_tanh,  // x · σ(2 √(2/π) · (x + 0.044715 x³))
  silu,       // x · σ(x)
  mish,       // x · tanh(log(1 + exp(x)))
  softplus,   // log(1 + exp(alpha · x)) / alpha; x where alpha · x > scale
};
inline constexpr int functions = int(Function::softplus) + 1;

// Whether the derivative is had from the output; else it is from the input, over whose result others may write.
constexpr bool derivative_from_output(Function f) { return f == Function::tanh; }

struct ActivationForward {
  Function function;
  float alpha, scale;
  int64_t size;
  const float* input;
  float* output = nullptr;
};

struct ActivationBackward {
  Function function;
  float alpha, scale;
  int64_t size;
  const float* output_gradient;
  const float* kept;  // the output or the input, as derivative_from_output() says
  float* input_gradient = nullptr;
};

}  // namespace pyconvopt
