// The activations with exponentials in double, by their definitions.
#include <cmath>
#include <numbers>

#include "../activation.hpp"
#include "reference.hpp"

namespace pyconvopt {
namespace {

constexpr double cubic = 0.044715, slope = 2 * 0.7978845608028654;  // 2 √(2/π)

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }
double normal(double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }

double value(const ActivationForward& p, double x) {
  const double alpha = p.alpha, scale = p.scale;
  switch (p.function) {
    case Function::tanh: return std::tanh(x);
    case Function::elu: return scale * (x <= 0 ? alpha * std::expm1(x) : x);
    case Function::gelu: return x * normal(x);
    case Function::gelu_tanh: return x * sigmoid(slope * (x + cubic * x * x * x));
    case Function::silu: return x * sigmoid(x);
    case Function::mish: return x * std::tanh(softplus(x));
    default: return alpha * x > scale ? x : std::isnan(x) ? x : softplus(alpha * x) / alpha;
  }
}

double derivative(const ActivationBackward& p, double kept) {
  const double alpha = p.alpha, scale = p.scale, x = kept;
  switch (p.function) {
    case Function::tanh: return 1 - kept * kept;
    case Function::elu: return x > 0 ? scale : scale * alpha * std::exp(x);
    case Function::gelu: return normal(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    case Function::gelu_tanh: {
      const double s = sigmoid(slope * (x + cubic * x * x * x));
      return s + x * s * (1 - s) * slope * (1 + 3 * cubic * x * x);
    }
    case Function::silu: return sigmoid(x) * (1 + x * sigmoid(-x));
    case Function::mish: {
      const double t = std::tanh(softplus(x));
      return t + x * (1 - t * t) * sigmoid(x);
    }
    default: return alpha * x > scale ? 1 : sigmoid(alpha * x);
  }
}

void forward(const ActivationForward& p) {
  for (int64_t i = 0; i < p.size; ++i) p.output[i] = float(value(p, p.input[i]));
}

void backward(const ActivationBackward& p) {
  for (int64_t i = 0; i < p.size; ++i) p.input_gradient[i] = float(p.output_gradient[i] * derivative(p, p.kept[i]));
}

}  // namespace

extern const Kernel<ActivationForward> reference_activation_forward;
const Kernel<ActivationForward> reference_activation_forward{"reference", reference::last_resort, reference::takes_all,
                                                             forward};
extern const Kernel<ActivationBackward> reference_activation_backward;
const Kernel<ActivationBackward> reference_activation_backward{"reference", reference::last_resort,
                                                               reference::takes_all, backward};

}  // namespace pyconvopt
