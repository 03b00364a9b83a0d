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

// Of two in three tensors: rows of half a tensor (of the longest: longer than a piece) or of all of it.
AfterUpdate after_update(std::size_t t) {
  if (t % 3 == 0) return {};
  return {0.3f, 12, sizes[t] % 2 ? sizes[t] : sizes[t] / 2};
}

void check_sgd(bool momentum, bool nesterov, bool first, bool maximize, bool after = false) {
  const auto parameters = draw_each(1), gradients = draw_each(1), velocities = draw_each(1);
  std::vector<SgdTensor> tensors;
  SgdStep step{.tensors = nullptr, .count = int64_t(std::size(sizes)), .lr = 0.1};
  step.momentum = momentum ? 0.9 : 0;
  step.dampening = nesterov ? 0 : 0.1;
  step.weight_decay = nesterov ? 0 : 0.01;
  step.nesterov = nesterov, step.maximize = maximize, step.scale = after ? 0.4 : 1;
  check("SgdStep", momentum ? "momentum" : "plain", step, 2e-6, [&](SgdStep& p, Results& r) {
    tensors.clear();
    for (std::size_t t = 0; t < std::size(sizes); ++t)
      tensors.push_back({sizes[t], r.floats(parameters[t]), gradients[t].data(),
                         momentum ? r.floats(velocities[t]) : nullptr, first, after ? after_update(t) : AfterUpdate{}});
    p.tensors = tensors.data();
  });
}

void check_adam(double weight_decay, bool decoupled, bool maximize, double beta1, bool after = false) {
  const auto parameters = draw_each(1), gradients = draw_each(1), means = draw_each(0.1f),
             variances = draw_each(0.01f, 0.1f);
  std::vector<AdamTensor> tensors;
  AdamStep step{.tensors = nullptr, .count = int64_t(std::size(sizes)), .lr = 0.01, .beta1 = beta1};
  step.weight_decay = weight_decay, step.decoupled = decoupled, step.maximize = maximize;
  step.scale = after ? 0.4 : 1;
  check("AdamStep", decoupled ? "decoupled" : "coupled", step, 1e-6, [&](AdamStep& p, Results& r) {
    tensors.clear();
    for (std::size_t t = 0; t < std::size(sizes); ++t)
      tensors.push_back({sizes[t], r.floats(parameters[t]), gradients[t].data(), r.floats(means[t]),
                         r.floats(variances[t]), double(t + 1), after ? after_update(t) : AfterUpdate{}});
    p.tensors = tensors.data();
  });
}

void check_squares() {
  const auto values = draw_each(3);
  std::vector<SquaresTensor> tensors;
  std::vector<double> sums;
  for (std::size_t t = 0; t < std::size(sizes); ++t) {
    tensors.push_back({sizes[t], values[t].data()});
    sums.resize(sums.size() + std::size_t(squares_pieces(sizes[t])));
  }
  const Squares problem{tensors.data(), int64_t(tensors.size()), nullptr};
  check(
      "Squares", "many sizes", problem, 1e-6, [&](Squares& p, Results&) { p.sums = sums.data(); },
      [&](const Squares&, Results& r) { r.floats(Floats(sums.begin(), sums.end())); });
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
  check_sgd(false, false, false, true, true);
  check_sgd(true, true, false, false, true);
  check_adam(0.1, true, false, 0.9, true);
  check_squares();
}

}  // namespace pyconvopt::check
