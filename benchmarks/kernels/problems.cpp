// The lines of ../layers.inc as problems of the kernels, with the operations and bytes of each.
//
// Operations of a convolution are those of its definition; bytes are those of every tensor that has to
// be read or written, once (as benchmarks/problems.py counts them, there for whole layers).
#include <map>
#include <string_view>

#include "activation.hpp"
#include "conv.hpp"
#include "dropout.hpp"
#include "norm.hpp"
#include "optim.hpp"
#include "pool.hpp"
#include "registry.hpp"

namespace pyconvopt::benchmarks {
namespace {

std::string text(int64_t number) { return std::to_string(number); }
std::string first(std::string_view networks) { return std::string(networks.substr(0, networks.find(' '))); }

void add_convolution(std::string_view networks, const ConvShape& s) {
  const int64_t x = s.batch * s.in_channels * s.in_height * s.in_width;
  const int64_t y = s.batch * s.out_channels * s.out_height() * s.out_width();
  const int64_t taps = s.kernel_height * s.kernel_width, depth = s.in_channels / s.groups;
  const int64_t weights = s.out_channels * depth * taps;
  const WeightStrides strides{taps * depth, 1, s.kernel_width * depth, depth};  // channels last
  const double flops = 2.0 * double(y) * double(depth * taps), bytes = 4.0 * double(x + y + weights);
  const std::string label = first(networks) + '/' + text(s.in_channels) + "to" + text(s.out_channels) + '_' +
                            text(s.in_height) + 'x' + text(s.in_width) + "_k" + text(s.kernel_height) + 'x' +
                            text(s.kernel_width) + "_s" + text(s.stride_height) + "_p" + text(s.padding_height) + 'x' +
                            text(s.padding_width) + "_g" + text(s.groups) + "/batch:" + text(s.batch);
  add<ConvForward>("ConvForward", label, flops, bytes, [=](Buffers& b) {
    ConvForward p{s, b.floats(x), b.floats(weights), strides};
    p.output = b.floats(y);
    return p;
  });
  add<ConvDataGradient>("ConvDataGradient", label, flops, bytes, [=](Buffers& b) {
    return ConvDataGradient{s, b.floats(y), b.floats(weights), strides, b.floats(x)};
  });
  add<ConvWeightGradient>("ConvWeightGradient", label, flops, bytes, [=](Buffers& b) {
    return ConvWeightGradient{s, b.floats(x), b.floats(y), b.floats(weights), strides};
  });
}

std::string map_label(std::string_view networks, const MapShape& s) {
  return first(networks) + '/' + text(s.channels) + '_' + text(s.height) + 'x' + text(s.width) +
         "/batch:" + text(s.batch);
}

// The activation alone and the sums of a bias gradient are measured on the same maps.
void add_batch_norm_relu(std::string_view networks, const MapShape& s) {
  const int64_t x = s.rows() * s.channels, c = s.channels;
  const double n = double(x);
  const std::string label = map_label(networks, s);
  add<BatchNormForward>("BatchNormForward", label, 6 * n, 8 * n, [=](Buffers& b) {
    BatchNormForward p{};
    p.shape = s;
    p.input = b.floats(x);
    p.weight = b.ones(c);
    p.bias = b.floats(c);
    p.running_mean = b.floats(c);
    p.running_variance = b.ones(c);
    p.activation = Activation::relu;
    p.output = b.floats(x);
    p.saved_mean = b.floats(c);
    p.saved_invstd = b.ones(c);
    return p;
  });
  add<BatchNormBackward>("BatchNormBackward", label, 9 * n, 16 * n, [=](Buffers& b) {
    BatchNormBackward p{};
    p.shape = s;
    p.output_gradient = b.floats(x);
    p.input = b.floats(x);
    p.output = b.floats(x);
    p.weight = b.ones(c);
    p.saved_mean = b.floats(c);
    p.saved_invstd = b.ones(c);
    p.activation = Activation::relu;
    p.input_gradient = b.floats(x);
    p.weight_gradient = b.floats(c);
    p.bias_gradient = b.floats(c);
    return p;
  });
  add<ReluForward>("ReluForward", label, n, 8 * n,
                   [=](Buffers& b) { return ReluForward{x, b.floats(x), b.floats(x)}; });
  add<ReluBackward>("ReluBackward", label, 2 * n, 12 * n, [=](Buffers& b) {
    return ReluBackward{s.rows(), c, b.floats(x), b.floats(x), b.floats(x), b.floats(c)};
  });
  add<ActivationForward>("ActivationForward", label + " mish", 20 * n, 8 * n, [=](Buffers& b) {
    return ActivationForward{Function::mish, 1, 1, x, b.floats(x), b.floats(x)};
  });
  add<ActivationBackward>("ActivationBackward", label + " mish", 25 * n, 12 * n, [=](Buffers& b) {
    return ActivationBackward{Function::mish, 1, 1, x, b.floats(x), b.floats(x), b.floats(x)};
  });
  add<ChannelSum>("ChannelSum", label, n, 4 * n,
                  [=](Buffers& b) { return ChannelSum{s.rows(), c, b.floats(x), b.floats(c)}; });
}

void add_max_pool(std::string_view networks, const MapShape& s, const PoolAxis& rows, const PoolAxis& columns) {
  const int64_t x = s.rows() * s.channels, y = s.batch * rows.pooled * columns.pooled * s.channels;
  const double bytes = 4.0 * double(x) + 5.0 * double(y);
  const std::string label = map_label(networks, s) + "/window:" + text(rows.kernel) + "x" + text(columns.kernel) +
                            "/stride:" + text(rows.stride);
  if (rows.kernel == 2 && columns.kernel == 2 && rows.stride == 2) {
    add<MaxPoolForward>("MaxPoolForward", label, double(x), bytes,
                        [=](Buffers& b) { return MaxPoolForward{s, b.floats(x), b.floats(y), b.bytes(y)}; });
    add<MaxPoolBackward>("MaxPoolBackward", label, 0, bytes,
                         [=](Buffers& b) { return MaxPoolBackward{s, b.floats(y), b.bytes(y), b.floats(x)}; });
  } else {
    add<WindowPoolForward>("WindowPoolForward", label, double(x), bytes, [=](Buffers& b) {
      return WindowPoolForward{s.batch, s.channels, rows, columns, b.floats(x), nullptr, b.floats(y), b.bytes(y)};
    });
    add<WindowPoolBackward>("WindowPoolBackward", label, 0, bytes, [=](Buffers& b) {
      return WindowPoolBackward{s.batch, s.channels, rows, columns, b.floats(y), b.bytes(y), b.floats(x)};
    });
  }
  add<AveragePoolBackward>("AveragePoolBackward", label, double(x), 4.0 * double(x + y), [=](Buffers& b) {
    return AveragePoolBackward{s.batch, s.channels, rows, columns, true, 0, b.floats(y), b.floats(x)};
  });
}

void add_dropout(std::string_view networks, const MapShape& s) {
  const int64_t x = s.rows() * s.channels;
  add<Dropout>("Dropout", map_label(networks, s), double(x), 8.0 * double(x),
               [=](Buffers& b) { return Dropout{x, b.floats(x), DropoutKey{0.5, 1, 2}, b.floats(x)}; });
}

// The steps point into a list of tensors, which the function that builds them keeps.
void add_steps(std::string_view network, const std::vector<int64_t>& sizes) {
  int64_t total = 0;
  for (const int64_t size : sizes) total += size;
  const double n = double(total);
  const std::string label = std::string(network) + "/parameters:" + text(total);
  const auto sgd = std::make_shared<std::vector<SgdTensor>>(sizes.size());
  add<SgdStep>("SgdStep", label, 6 * n, 20 * n, [=](Buffers& b) {
    for (size_t i = 0; i < sizes.size(); ++i)
      (*sgd)[i] = {sizes[i], b.floats(sizes[i]), b.floats(sizes[i]), b.floats(sizes[i])};
    return SgdStep{sgd->data(), int64_t(sizes.size()), 0.01, 0.9, 0, 5e-4};
  });
  const auto adam = std::make_shared<std::vector<AdamTensor>>(sizes.size());
  add<AdamStep>("AdamStep", label, 14 * n, 28 * n, [=](Buffers& b) {
    for (size_t i = 0; i < sizes.size(); ++i)
      (*adam)[i] = {sizes[i], b.floats(sizes[i]), b.floats(sizes[i]), b.floats(sizes[i]), b.ones(sizes[i]), 1};
    return AdamStep{adam->data(), int64_t(sizes.size()), 0.001};
  });
}

}  // namespace

void add_layers(int64_t batch) {
  std::map<std::string, std::vector<int64_t>> parameters;
#define CONVOLUTION(networks, c, h, w, k, r, s, stride, pad_h, pad_w, groups) \
  add_convolution(networks, {batch, c, h, w, k, r, s, stride, stride, pad_h, pad_w, 1, 1, groups});
#define BATCH_NORM_RELU(networks, c, h, w) add_batch_norm_relu(networks, {batch, h, w, c});
#define MAX_POOL(networks, c, h, w, r, s, stride, pad_h, pad_w) \
  add_max_pool(networks, {batch, h, w, c}, PoolAxis::of(h, r, stride, pad_h), PoolAxis::of(w, s, stride, pad_w));
#define DROPOUT(networks, c, h, w) add_dropout(networks, {batch, h, w, c});
#define PARAMETERS(network, count, size) parameters[network].insert(parameters[network].end(), count, size);
#include "../layers.inc"
  for (const auto& [network, sizes] : parameters) add_steps(network, sizes);
}

}  // namespace pyconvopt::benchmarks
