// Optimiser steps in double, rounded once at the end.
#include "../optim.hpp"

#include <cmath>

#include "reference.hpp"

namespace pyconvopt {
namespace {

void sgd(const SgdStep& p) {
  for (const SgdTensor* t = p.tensors; t < p.tensors + p.count; ++t)
    for (int64_t i = 0; i < t->size; ++i) {
      double gradient = p.maximize ? -double(t->gradient[i]) : t->gradient[i];
      if (p.weight_decay != 0) gradient += p.weight_decay * t->parameter[i];
      if (t->momentum) {
        const double velocity = t->first ? gradient : p.momentum * t->momentum[i] + (1 - p.dampening) * gradient;
        t->momentum[i] = float(velocity);
        gradient = p.nesterov ? gradient + p.momentum * velocity : velocity;
      }
      t->parameter[i] = float(t->parameter[i] - p.lr * gradient);
    }
}

void adam(const AdamStep& p) {
  for (const AdamTensor* t = p.tensors; t < p.tensors + p.count; ++t) {
    const double correction1 = 1 - std::pow(p.beta1, t->step), correction2 = 1 - std::pow(p.beta2, t->step);
    for (int64_t i = 0; i < t->size; ++i) {
      double gradient = p.maximize ? -double(t->gradient[i]) : t->gradient[i], parameter = t->parameter[i];
      if (p.weight_decay != 0 && p.decoupled) parameter -= p.lr * p.weight_decay * parameter;
      if (p.weight_decay != 0 && !p.decoupled) gradient += p.weight_decay * parameter;
      const double mean = t->mean[i] + (1 - p.beta1) * (gradient - t->mean[i]);
      const double variance = p.beta2 * t->variance[i] + (1 - p.beta2) * gradient * gradient;
      t->mean[i] = float(mean);
      t->variance[i] = float(variance);
      t->parameter[i] = float(parameter - p.lr / correction1 * mean / (std::sqrt(variance / correction2) + p.epsilon));
    }
  }
}

}  // namespace

extern const Kernel<SgdStep> reference_sgd;
const Kernel<SgdStep> reference_sgd{"reference", reference::last_resort, reference::takes_all, sgd};
extern const Kernel<AdamStep> reference_adam;
const Kernel<AdamStep> reference_adam{"reference", reference::last_resort, reference::takes_all, adam};

}  // namespace pyconvopt
