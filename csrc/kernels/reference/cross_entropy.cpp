// Cross-entropy of softmax and its gradient in double, by the definition.
#include "../cross_entropy.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference.hpp"

namespace pyconvopt {
namespace {

void cross_entropy(const CrossEntropy& p) {
  const double s = p.smoothing, share = s / double(p.classes);
  double total = 0, counted = 0, weights = 0;
  for (int64_t c = 0; c < p.classes; ++c) weights += p.weight_of(c);
  for (int64_t row = 0; row < p.rows; ++row) counted += p.counts(row) ? p.weight_of(p.target[row]) : 0;
  const double divisor = p.reduction == Reduction::mean ? counted : 1;
  for (int64_t row = 0; row < p.rows; ++row) {
    const float* z = p.logits + row * p.classes;
    double m = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t c = 0; c < p.classes; ++c) m = std::max(m, double(z[c]));
    for (int64_t c = 0; c < p.classes; ++c) sum += std::exp(z[c] - m);
    const auto surprise = [&](int64_t c) { return std::log(sum) - (z[c] - m); };  // −log p_c
    const bool counts = p.counts(row);
    const double own = counts ? (1 - s) * p.weight_of(p.target[row]) : 0, spread = counts ? share : 0;
    double loss = counts ? own * surprise(p.target[row]) : 0;
    for (int64_t c = 0; spread > 0 && c < p.classes; ++c) loss += spread * p.weight_of(c) * surprise(c);
    total += loss;
    if (p.reduction == Reduction::none) p.loss[row] = float(loss);
    for (int64_t c = 0; p.gradient && c < p.classes; ++c) {
      double gradient = std::exp(z[c] - m) / sum * (own + spread * weights) - spread * p.weight_of(c);
      if (counts && c == p.target[row]) gradient -= own;
      p.gradient[row * p.classes + c] = float(counts ? gradient / divisor : gradient);
    }
  }
  if (p.reduction != Reduction::none) *p.loss = float(total / divisor);
}

}  // namespace

extern const Kernel<CrossEntropy> reference_cross_entropy;
const Kernel<CrossEntropy> reference_cross_entropy{"reference", reference::last_resort, reference::takes_all,
                                                   cross_entropy};

}  // namespace pyconvopt
