// Optimiser steps over tensors of many sizes, empty ones and ones of more than a piece among them.
#include "check.hpp"
#include "optim.hpp"

namespace pyconvopt::check {
namespace {

constexpr int64_t sizes[] = {1, 0, 15, 16, 1000, 40000, 0, 7};

std::vector<Floats> draw_each(float scale, float shift = 0) {
  std::vector<Floats> all;
  for (const int64_t size : sizes) all.push_back(draw(size, scale, shift));
  return all;
}

void check_sgd(bool momentum, bool nesterov, bool first, bool maximize) {
  const auto parameters = draw_each(1), gradients = draw_each(1), velocities = draw_each(1);
  std::vector<SgdTensor> tensors;
  SgdStep step{.tensors = nullptr, .count = int64_t(std::size(sizes)), .lr = 0.1};
  step.momentum = momentum ? 0.9 : 0;
  step.dampening = nesterov ? 0 : 0.1;
  step.weight_decay = nesterov ? 0 : 0.01;
  step.nesterov = nesterov, step.maximize = maximize;
  check("SgdStep", momentum ? "momentum" : "plain", step, 2e-6, [&](SgdStep& p, Results& r) {
    tensors.clear();
    for (std::size_t t = 0; t < std::size(sizes); ++t)
      tensors.push_back({sizes[t], r.floats(parameters[t]), gradients[t].data(),
                         momentum ? r.floats(velocities[t]) : nullptr, first});
    p.tensors = tensors.data();
  });
}

void check_adam(double weight_decay, bool decoupled, bool maximize, double beta1) {
  const auto parameters = draw_each(1), gradients = draw_each(1), means = draw_each(0.1f),
             variances = draw_each(0.01f, 0.1f);
  std::vector<AdamTensor> tensors;
  AdamStep step{.tensors = nullptr, .count = int64_t(std::size(sizes)), .lr = 0.01, .beta1 = beta1};
  step.weight_decay = weight_decay, step.decoupled = decoupled, step.maximize = maximize;
  check("AdamStep", decoupled ? "decoupled" : "coupled", step, 1e-6, [&](AdamStep& p, Results& r) {
    tensors.clear();
    for (std::size_t t = 0; t < std::size(sizes); ++t)
      tensors.push_back({sizes[t], r.floats(parameters[t]), gradients[t].data(), r.floats(means[t]),
                         r.floats(variances[t]), double(t + 1)});
    p.tensors = tensors.data();
  });
}

}  // namespace

void check_optimizers() {
  check_sgd(false, false, false, false);
  check_sgd(true, false, true, false);
  check_sgd(true, false, false, true);
  check_sgd(true, true, false, false);
  check_adam(0, false, false, 0.9);
  check_adam(0.1, false, true, 0.9);
  check_adam(0.1, true, false, 0.3);
}

}  // namespace pyconvopt::check
