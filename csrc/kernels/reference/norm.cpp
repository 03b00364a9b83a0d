// Batch normalisation with what follows it, in double, one step after the other.
#include "../norm.hpp"

#include <cmath>
#include <vector>

#include "reference.hpp"

namespace pyconvopt {
namespace {

using Doubles = std::vector<double>;

std::size_t map_size(const MapShape& s) { return std::size_t(s.rows() * s.channels); }

struct Window {
  int64_t pooled, first;
};

template <class Visit>
void for_each_window(const MapShape& s, Visit visit) {
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t y = 0; y < s.height / 2; ++y)
      for (int64_t x = 0; x < s.width / 2; ++x)
        for (int64_t c = 0; c < s.channels; ++c)
          visit(Window{((n * (s.height / 2) + y) * (s.width / 2) + x) * s.channels + c,
                       ((n * s.height + 2 * y) * s.width + 2 * x) * s.channels + c});
}

int64_t pixel_of(const MapShape& s, const Window& w, int i) { return w.first + (i / 2 * s.width + i % 2) * s.channels; }

void statistics(const BatchNormForward& p) {
  const int64_t rows = p.shape.rows(), channels = p.shape.channels;
  for (int64_t c = 0; c < channels; ++c) {
    double mean = p.running_mean ? p.running_mean[c] : 0.0, variance = p.running_variance ? p.running_variance[c] : 1.0;
    if (p.training && rows > 0) {
      double sum = 0, squares = 0;  // of the map itself, even where the convolution left statistics
      for (int64_t row = 0; row < rows; ++row) sum += p.input[row * channels + c];
      mean = sum / double(rows);
      for (int64_t row = 0; row < rows; ++row) squares += std::pow(p.input[row * channels + c] - mean, 2);
      variance = squares / double(rows);
      if (p.running_mean) p.running_mean[c] = moved_average(p.running_mean[c], mean, p.momentum);
      if (p.running_variance)
        p.running_variance[c] = moved_average(p.running_variance[c], squares / double(rows - 1), p.momentum);
    }
    p.saved_mean[c] = float(mean);
    p.saved_invstd[c] = float(1 / std::sqrt(variance + p.epsilon));
  }
}

void forward(const BatchNormForward& p) {
  if (!p.again) statistics(p);
  if (!p.output) return;
  const int64_t channels = p.shape.channels;
  const bool clamp = p.activation == Activation::relu;
  Doubles y(map_size(p.shape));
  for (std::size_t i = 0; i < y.size(); ++i) {
    const std::size_t c = i % std::size_t(channels);
    y[i] = (double(p.input[i]) - p.saved_mean[c]) * p.saved_invstd[c] * (p.weight ? p.weight[c] : 1.0) +
           (p.bias ? p.bias[c] : 0.0) + (p.residual ? p.residual[i] : 0.0);
    y[i] = reference::activated(p.activation, y[i]);
  }
  const bool drop = p.dropout.probability > 0;
  if (!p.pool) {
    for (std::size_t i = 0; i < y.size(); ++i)
      p.output[i] = float(drop ? y[i] * dropout_multiplier(p.dropout, i) : y[i]);
    return;
  }
  for_each_window(p.shape, [&](const Window& w) {
    double best = -INFINITY;
    uint8_t position = 0;
    for (uint8_t i = 0; i < 4; ++i)
      if (const double value = y[std::size_t(pixel_of(p.shape, w, i))]; value > best || std::isnan(value))
        best = value, position = i;
    const double multiplier = drop ? dropout_multiplier(p.dropout, uint64_t(w.pooled)) : 1.0;
    p.output[w.pooled] = float(best * multiplier);
    p.argmax[w.pooled] = (clamp && best <= 0) || multiplier == 0 ? pool_dead : position;
  });
}

// What the activation got, or what ReLU left.
double output_at(const BatchNormBackward& p, std::size_t i) {
  if (p.output) return p.output[i];
  const std::size_t c = i % std::size_t(p.shape.channels);
  return (double(p.input[i]) - p.saved_mean[c]) * p.saved_invstd[c] * (p.weight ? p.weight[c] : 1.0) +
         (p.bias ? p.bias[c] : 0.0);
}

void backward(const BatchNormBackward& p) {
  const int64_t channels = p.shape.channels, rows = p.shape.rows();
  const double scale = DropoutKey{.probability = p.dropout_probability}.scale();
  Doubles g(map_size(p.shape), 0.0);
  if (p.pool) {
    for_each_window(p.shape, [&](const Window& w) {
      const int i = p.argmax[w.pooled];
      if (i < pool_dead) g[std::size_t(pixel_of(p.shape, w, i))] = p.output_gradient[w.pooled] * scale;
    });
  } else {
    for (std::size_t i = 0; i < g.size(); ++i)
      g[i] = reference::let_through(p.activation, p.output_gradient[i] * scale, output_at(p, i));
  }
  for (int64_t c = 0; c < channels; ++c) {
    const double mean = p.saved_mean[c], invstd = p.saved_invstd[c], weight = p.weight ? p.weight[c] : 1.0;
    double sum = 0, product = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const std::size_t at = std::size_t(row * channels + c);
      sum += g[at];
      product += g[at] * (p.input[at] - mean) * invstd;
    }
    if (p.known_weight_gradient) product = p.known_weight_gradient[c], sum = p.known_bias_gradient[c];
    if (p.weight_gradient) p.weight_gradient[c] = float(product);
    if (p.bias_gradient) p.bias_gradient[c] = float(sum);
    for (int64_t row = 0; row < rows; ++row) {
      const std::size_t at = std::size_t(row * channels + c);
      if (p.residual_gradient) p.residual_gradient[at] = float(g[at]);
      double centred = g[at];
      if (p.training) centred -= sum / double(rows) + (p.input[at] - mean) * invstd * product / double(rows);
      if (p.input_gradient) p.input_gradient[at] = float(weight * invstd * centred);
    }
  }
}

}  // namespace

extern const Kernel<BatchNormForward> reference_batch_norm_forward;
const Kernel<BatchNormForward> reference_batch_norm_forward{"reference", reference::last_resort, reference::takes_all,
                                                            forward};
extern const Kernel<BatchNormBackward> reference_batch_norm_backward;
const Kernel<BatchNormBackward> reference_batch_norm_backward{"reference", reference::last_resort, reference::takes_all,
                                                              backward};

}  // namespace pyconvopt
