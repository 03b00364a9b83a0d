// Plain loops with double accumulation: the meaning of every kernel, and the last resort of the table.
#include "../norm.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "reference.hpp"

namespace pyconvopt {

extern const Kernel<BatchNormBackward> reference_batch_norm_backward;

namespace {

// Walks every (output element, weight element, input element) triple that the convolution multiplies.
template <class Visit>
void for_each_output(const ConvShape& s, Visit visit) {
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t oy = 0; oy < s.out_height(); ++oy)
      for (int64_t ox = 0; ox < s.out_width(); ++ox)
        for (int64_t k = 0; k < s.out_channels; ++k) visit(n, oy, ox, k);
}

template <class Visit>
void for_each_tap(const ConvShape& s, int64_t oy, int64_t ox, int64_t k, Visit visit) {
  const int64_t group_in = s.in_channels / s.groups, group = k / (s.out_channels / s.groups);
  for (int64_t r = 0; r < s.kernel_height; ++r) {
    const int64_t iy = oy * s.stride_height - s.padding_height + r * s.dilation_height;
    if (iy < 0 || iy >= s.in_height) continue;
    for (int64_t q = 0; q < s.kernel_width; ++q) {
      const int64_t ix = ox * s.stride_width - s.padding_width + q * s.dilation_width;
      if (ix < 0 || ix >= s.in_width) continue;
      for (int64_t c = 0; c < group_in; ++c) visit(iy, ix, group * group_in + c, r, q, c);
    }
  }
}

int64_t input_at(const ConvShape& s, int64_t n, int64_t y, int64_t x, int64_t c) {
  return ((n * s.in_height + y) * s.in_width + x) * s.in_channels + c;
}
int64_t output_at(const ConvShape& s, int64_t n, int64_t y, int64_t x, int64_t k) {
  return ((n * s.out_height() + y) * s.out_width() + x) * s.out_channels + k;
}
int64_t weight_at(const WeightStrides& w, int64_t k, int64_t c, int64_t r, int64_t q) {
  return k * w.out_channel + c * w.in_channel + r * w.row + q * w.column;
}

// An element of the input as the convolution takes it.
template <class Problem>
double input_of(const Problem& p, int64_t n, int64_t y, int64_t x, int64_t c) {
  return reference::normalized(p.norm, c, p.input[input_at(p.shape, n, y, x, c)]);
}

double convolve_at(const ConvForward& p, int64_t n, int64_t oy, int64_t ox, int64_t k) {
  double sum = p.bias ? p.bias[k] : 0.0;
  for_each_tap(p.shape, oy, ox, k, [&](int64_t iy, int64_t ix, int64_t ic, int64_t r, int64_t q, int64_t c) {
    sum += input_of(p, n, iy, ix, ic) * p.weight[weight_at(p.weight_strides, k, c, r, q)];
  });
  if (p.residual) sum += p.residual[output_at(p.shape, n, oy, ox, k)];
  return reference::activated(p.activation, sum);
}

// Pieces of as many rows as a float counts.
constexpr int64_t counted_rows = int64_t(1) << 24;
int64_t output_rows(const ConvShape& s) { return s.batch * s.out_height() * s.out_width(); }
int64_t moment_pieces(const ConvForward& p) {
  return std::max(int64_t(1), (output_rows(p.shape) + counted_rows - 1) / counted_rows);
}
void moments(const ConvForward& p) {
  const int64_t channels = p.shape.out_channels, rows = output_rows(p.shape), pieces = moment_pieces(p);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    float* line = p.moments + piece * moment_line(channels);
    const int64_t begin = piece * counted_rows, end = std::min(rows, begin + counted_rows);
    for (int64_t k = 0; k < channels; ++k) {
      double sum = 0, squares = 0;
      for (int64_t row = begin; row < end; ++row) sum += p.output[row * channels + k];
      const double mean = sum / double(end - begin);
      for (int64_t row = begin; row < end; ++row) squares += std::pow(p.output[row * channels + k] - mean, 2);
      line[k] = float(mean);
      line[channels + k] = float(squares);
    }
    line[2 * channels] = float(end - begin);
  }
}

void forward(const ConvForward& p) {
  const ConvShape& s = p.shape;
  if (!p.pool) {
    for_each_output(s, [&](int64_t n, int64_t oy, int64_t ox, int64_t k) {
      p.output[output_at(s, n, oy, ox, k)] = float(convolve_at(p, n, oy, ox, k));
    });
    if (p.moments) moments(p);
    return;
  }
  const int64_t pooled_height = s.out_height() / 2, pooled_width = s.out_width() / 2;
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t py = 0; py < pooled_height; ++py)
      for (int64_t px = 0; px < pooled_width; ++px)
        for (int64_t k = 0; k < s.out_channels; ++k) {
          float best = -INFINITY;
          uint8_t position = 0;
          for (uint8_t i = 0; i < 4; ++i) {
            const float value = float(convolve_at(p, n, 2 * py + i / 2, 2 * px + i % 2, k));
            if (value > best || std::isnan(value)) best = value, position = i;
          }
          const int64_t at = ((n * pooled_height + py) * pooled_width + px) * s.out_channels + k;
          p.output[at] = best;
          p.argmax[at] = p.activation == Activation::relu && best <= 0 ? pool_dead : position;
        }
}

// The gradient of the convolution's output, of a pooled one at the position its byte names.
template <class Problem>
double gradient_at(const Problem& p, int64_t n, int64_t y, int64_t x, int64_t k) {
  const ConvShape& s = p.shape;
  if (!p.argmax) return p.output_gradient[output_at(s, n, y, x, k)];
  const int64_t height = s.out_height() / 2, width = s.out_width() / 2;
  if (y >= 2 * height || x >= 2 * width) return 0;
  const int64_t at = ((n * height + y / 2) * width + x / 2) * s.out_channels + k;
  return p.argmax[at] == y % 2 * 2 + x % 2 ? p.output_gradient[at] : 0;
}

void data_gradient(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  const int64_t size = s.batch * s.in_height * s.in_width * s.in_channels;
  double* sums = new double[std::size_t(size)]();
  for_each_output(s, [&](int64_t n, int64_t oy, int64_t ox, int64_t k) {
    const double g = gradient_at(p, n, oy, ox, k);
    for_each_tap(s, oy, ox, k, [&](int64_t iy, int64_t ix, int64_t ic, int64_t r, int64_t q, int64_t c) {
      sums[input_at(s, n, iy, ix, ic)] += g * p.weight[weight_at(p.weight_strides, k, c, r, q)];
    });
  });
  for (int64_t i = 0; i < size; ++i) p.input_gradient[i] = float(sums[i]);
  delete[] sums;
}

void weight_gradient(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  for (int64_t k = 0; p.bias_gradient && k < s.out_channels; ++k) {
    double sum = 0;
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t y = 0; y < s.out_height(); ++y)
        for (int64_t x = 0; x < s.out_width(); ++x) sum += gradient_at(p, n, y, x, k);
    p.bias_gradient[k] = float(sum);
  }
  for (int64_t k = 0; k < s.out_channels; ++k)
    for (int64_t r = 0; r < s.kernel_height; ++r)
      for (int64_t q = 0; q < s.kernel_width; ++q)
        for (int64_t c = 0; c < s.in_channels / s.groups; ++c) {
          const int64_t ic = k / (s.out_channels / s.groups) * (s.in_channels / s.groups) + c;
          double sum = 0;
          for (int64_t n = 0; n < s.batch; ++n)
            for (int64_t oy = 0; oy < s.out_height(); ++oy) {
              const int64_t iy = oy * s.stride_height - s.padding_height + r * s.dilation_height;
              if (iy < 0 || iy >= s.in_height) continue;
              for (int64_t ox = 0; ox < s.out_width(); ++ox) {
                const int64_t ix = ox * s.stride_width - s.padding_width + q * s.dilation_width;
                if (ix < 0 || ix >= s.in_width) continue;
                sum += input_of(p, n, iy, ix, ic) * gradient_at(p, n, oy, ox, k);
              }
            }
          p.weight_gradient[weight_at(p.weight_strides, k, c, r, q)] = float(sum);
        }
}

// The gradient between the convolution and its batch norm, then the two of the convolution.
void gradients(const ConvGradients& p) {
  const ConvShape& s = p.shape;
  const OutputNorm& o = p.output_norm;
  const InputNorm& norm = o.norm;
  const int64_t channels = s.out_channels, rows = output_rows(s);
  std::vector<float> made(std::size_t(rows * channels));
  float* between = made.data();
  for (int64_t i = 0; i < rows * channels; ++i) {
    const int64_t k = i % channels;
    const double x = (double(o.map[i]) - norm.mean[k]) * norm.invstd[k], weight = norm.weight ? norm.weight[k] : 1.0;
    const double g =
        reference::let_through(norm.activation, p.output_gradient[i], x * weight + (norm.bias ? norm.bias[k] : 0.0));
    between[i] = float(weight * norm.invstd[k] * (g - (o.bias_gradient[k] + x * o.weight_gradient[k]) / double(rows)));
  }
  data_gradient({s, between, p.weight, p.weight_strides, p.input_gradient});
  weight_gradient({.shape = s,
                   .input = p.input,
                   .output_gradient = between,
                   .weight_gradient = p.weight_gradient,
                   .weight_strides = p.weight_gradient_strides,
                   .norm = p.norm});
  if (!p.norm_weight_gradient) return;
  reference_batch_norm_backward.run({.shape = {s.batch, s.in_height, s.in_width, s.in_channels},
                                     .output_gradient = p.input_gradient,
                                     .input = p.input,
                                     .weight = p.norm->weight,
                                     .bias = p.norm->bias,
                                     .saved_mean = p.norm->mean,
                                     .saved_invstd = p.norm->invstd,
                                     .activation = p.norm->activation,
                                     .weight_gradient = p.norm_weight_gradient,
                                     .bias_gradient = p.norm_bias_gradient});
}

}  // namespace

using reference::last_resort;
using reference::takes_all;
extern const Kernel<ConvForward> reference_conv_forward;
const Kernel<ConvForward> reference_conv_forward{"reference", last_resort, takes_all,    forward,
                                                 nullptr,     nullptr,     moment_pieces};
extern const Kernel<ConvDataGradient> reference_conv_data_gradient;
const Kernel<ConvDataGradient> reference_conv_data_gradient{"reference", last_resort, takes_all, data_gradient};
extern const Kernel<ConvWeightGradient> reference_conv_weight_gradient;
const Kernel<ConvWeightGradient> reference_conv_weight_gradient{"reference", last_resort, takes_all, weight_gradient};
extern const Kernel<ConvGradients> reference_conv_gradients;
const Kernel<ConvGradients> reference_conv_gradients{"reference", last_resort, takes_all, gradients};

}  // namespace pyconvopt
