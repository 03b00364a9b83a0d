// Optimiser steps in double, rounded once at the end.
#include "../optim.hpp"

#include <cmath>

#include "reference.hpp"

namespace pyconvopt {
namespace {

void update_rows(const AfterUpdate& after, float* parameter, int64_t size) {
  for (int64_t row = 0; after.row && row < size; row += after.row) {
    double squares = 0;
    for (int64_t i = row; i < row + after.row; ++i) squares += double(parameter[i]) * parameter[i];
    const double norm = std::sqrt(squares), factor = (norm < after.bound ? norm : double(after.bound)) / (norm + 1e-7);
    for (int64_t i = row; i < row + after.row; ++i) parameter[i] = float(parameter[i] * factor);
  }
}

double shrunk(double w, double by) { return w > by ? w - by : w < -by ? w + by : w == w ? 0 : w; }

void sgd(const SgdStep& p) {
  for (const SgdTensor* t = p.tensors; t < p.tensors + p.count; ++t)
    for (int64_t i = 0; i < t->size; ++i) {
      double gradient = (p.maximize ? -p.scale : p.scale) * t->gradient[i];
      if (p.weight_decay != 0) gradient += p.weight_decay * t->parameter[i];
      if (t->momentum) {
        const double velocity = t->first ? gradient : p.momentum * t->momentum[i] + (1 - p.dampening) * gradient;
        t->momentum[i] = float(velocity);
        gradient = p.nesterov ? gradient + p.momentum * velocity : velocity;
      }
      t->parameter[i] = float(shrunk(t->parameter[i] - p.lr * gradient, t->after.shrink));
    }
  for (const SgdTensor* t = p.tensors; t < p.tensors + p.count; ++t) update_rows(t->after, t->parameter, t->size);
}

void adam(const AdamStep& p) {
  for (const AdamTensor* t = p.tensors; t < p.tensors + p.count; ++t) {
    const double correction1 = 1 - std::pow(p.beta1, t->step), correction2 = 1 - std::pow(p.beta2, t->step);
    for (int64_t i = 0; i < t->size; ++i) {
      double gradient = (p.maximize ? -p.scale : p.scale) * t->gradient[i], parameter = t->parameter[i];
      if (p.weight_decay != 0 && p.decoupled) parameter -= p.lr * p.weight_decay * parameter;
      if (p.weight_decay != 0 && !p.decoupled) gradient += p.weight_decay * parameter;
      const double mean = t->mean[i] + (1 - p.beta1) * (gradient - t->mean[i]);
      const double variance = p.beta2 * t->variance[i] + (1 - p.beta2) * gradient * gradient;
      t->mean[i] = float(mean);
      t->variance[i] = float(variance);
      const double updated = parameter - p.lr / correction1 * mean / (std::sqrt(variance / correction2) + p.epsilon);
      t->parameter[i] = float(shrunk(updated, t->after.shrink));
    }
    update_rows(t->after, t->parameter, t->size);
  }
}

void squares(const Squares& p) {
  double* sum = p.sums;
  for (const SquaresTensor* t = p.tensors; t < p.tensors + p.count; ++t)
    for (int64_t begin = 0; begin < t->size; begin += squares_piece, ++sum) {
      *sum = 0;
      for (int64_t i = begin; i < t->size && i < begin + squares_piece; ++i) *sum += double(t->data[i]) * t->data[i];
    }
}

}  // namespace

extern const Kernel<SgdStep> reference_sgd;
const Kernel<SgdStep> reference_sgd{"reference", reference::last_resort, reference::takes_all, sgd};
extern const Kernel<AdamStep> reference_adam;
const Kernel<AdamStep> reference_adam{"reference", reference::last_resort, reference::takes_all, adam};
extern const Kernel<Squares> reference_squares;
const Kernel<Squares> reference_squares{"reference", reference::last_resort, reference::takes_all, squares};

}  // namespace pyconvopt
