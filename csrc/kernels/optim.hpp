// Optimiser steps over all parameters of a model in one call.
//
// The update rules, the order of their operations and the place of epsilon are torch's, so that the
// results agree with torch.optim to the last few bits and states can be exchanged.
#pragma once
#include "kernel.hpp"

namespace pyconvopt {

// What a step does to a tensor after its update.
//   w ← sign(w) · max(|w| − shrink, 0)
//   each `row` of elements, then:  r ← r · min(‖r‖, bound) / (‖r‖ + 1e-7)
struct AfterUpdate {
  float shrink = 0;
  float bound = 0;
  int64_t row = 0;  // 0: no bound
};

struct SgdTensor {
  int64_t size;
  float* parameter;
  const float* gradient;
  float* momentum = nullptr;  // the velocity; null if `momentum` is 0
  bool first = false;         // the velocity is not set yet: it becomes the gradient
  AfterUpdate after = {};
};

//   g = ±scale · gradient + weight_decay · w;  v = momentum · v + (1 − dampening) · g
//   w −= lr · (nesterov ? g + momentum · v : v)
struct SgdStep {
  const SgdTensor* tensors;
  int64_t count;
  double lr, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false;
  double scale = 1;
};

struct AdamTensor {
  int64_t size;
  float* parameter;
  const float* gradient;
  float* mean;      // first moment of the gradient
  float* variance;  // second moment
  double step;      // number of this step, from 1
  AfterUpdate after = {};
};

//   g = ±scale · gradient (+ weight_decay · w, if coupled);  w −= lr · weight_decay · w, if decoupled
//   m += (1 − β₁)(g − m);  v = β₂ v + (1 − β₂) g²
//   w −= lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
struct AdamStep {
  const AdamTensor* tensors;
  int64_t count;
  double lr, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  bool decoupled = false, maximize = false;
  double scale = 1;
};

struct SquaresTensor {
  int64_t size;
  const float* data;
};

// The sum of squares of each piece of `squares_piece` elements, tensor after tensor: `sums` has room for
// `squares_pieces(size)` of each. Added up in order they do not depend on the number of threads.
struct Squares {
  const SquaresTensor* tensors;
  int64_t count;
  double* sums;
};
inline constexpr int64_t squares_piece = 16384;
inline int64_t squares_pieces(int64_t size) { return (size + squares_piece - 1) / squares_piece; }

}  // namespace pyconvopt
