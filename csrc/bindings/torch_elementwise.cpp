// torch.ops.pyconvopt: ReLU and other activations, sums over rows, dropout and pooling.
#include "activation.hpp"
#include "dispatch.hpp"
#include "dropout.hpp"
#include "pool.hpp"
#include "torch_rows.hpp"

namespace pyconvopt::binding {
namespace {

Tensor relu(const Tensor& input) {
  check_dense(input, "relu", "input");
  Tensor output = empty_as(input);
  run(ReluForward{input.numel(), input.const_data_ptr<float>(), output.mutable_data_ptr<float>()});
  return output;
}

std::tuple<Tensor, Tensor> relu_backward(const Tensor& output_gradient, const Tensor& output, bool channel_sum) {
  const char* op = "relu_backward";
  check_dense(output, op, "output");
  check_like(output_gradient, output, op, "output_gradient");
  if (channel_sum) check_rows(output, op, "output");
  Tensor gradient = empty_as(output);
  const MapShape shape = channel_sum ? map_shape(output) : MapShape{1, 1, 1, output.numel()};
  Tensor sum = channel_sum ? empty_vector(shape.channels) : nothing();
  run(ReluBackward{shape.rows(), shape.channels, output_gradient.const_data_ptr<float>(),
                   output.const_data_ptr<float>(), gradient.mutable_data_ptr<float>(),
                   channel_sum ? sum.mutable_data_ptr<float>() : nullptr});
  return {gradient, sum};
}

Function checked_function(int64_t function, const char* op) {
  STD_TORCH_CHECK(function >= 0 && function < functions, op, ": expected a function of 0 to ", functions - 1,
                  ", but got ", function);
  return Function(function);
}

Tensor activation(const Tensor& input, int64_t function, double alpha, double scale) {
  check_dense(input, "activation", "input");
  const Function checked = checked_function(function, "activation");
  Tensor output = empty_as(input);
  run(ActivationForward{checked, float(alpha), float(scale), input.numel(), input.const_data_ptr<float>(),
                        output.mutable_data_ptr<float>()});
  return output;
}

Tensor activation_backward(const Tensor& output_gradient, const Tensor& kept, int64_t function, double alpha,
                           double scale) {
  const char* op = "activation_backward";
  const Function checked = checked_function(function, op);
  check_dense(kept, op, "kept");
  check_like(output_gradient, kept, op, "output_gradient");
  Tensor gradient = empty_as(kept);
  run(ActivationBackward{checked, float(alpha), float(scale), kept.numel(), output_gradient.const_data_ptr<float>(),
                         kept.const_data_ptr<float>(), gradient.mutable_data_ptr<float>()});
  return gradient;
}

Tensor channel_sum(const Tensor& input) {
  check_rows(input, "channel_sum", "input");
  const MapShape shape = map_shape(input);
  Tensor sum = empty_vector(shape.channels);
  run(ChannelSum{shape.rows(), shape.channels, input.const_data_ptr<float>(), sum.mutable_data_ptr<float>()});
  return sum;
}

Tensor dropout(const Tensor& input, double p, int64_t seed, int64_t offset) {
  check_dense(input, "dropout", "input");
  check_probability(p, "dropout");
  Tensor output = empty_as(input);
  run(Dropout{.size = input.numel(),
              .input = input.const_data_ptr<float>(),
              .key = {p, uint64_t(seed), uint64_t(offset)},
              .output = output.mutable_data_ptr<float>()});
  return output;
}

Tensor dropout_channels(const Tensor& input, double p, int64_t seed, int64_t offset) {
  check_map(input, "dropout_channels", "input");
  check_probability(p, "dropout_channels");
  const MapShape shape = map_shape(input);
  Tensor output = empty_rows(input);
  run(Dropout{.size = input.numel(),
              .input = input.const_data_ptr<float>(),
              .key = {p, uint64_t(seed), uint64_t(offset)},
              .output = output.mutable_data_ptr<float>(),
              .pixels = shape.height * shape.width,
              .channels = shape.channels});
  return output;
}

std::tuple<Tensor, Tensor> max_pool2x2(const Tensor& input) {
  check_map(input, "max_pool2x2", "input");
  check_poolable(input, "max_pool2x2");
  Tensor output = empty_pooled(input), argmax = empty_pooled(input, ScalarType::Byte);
  run(MaxPoolForward{map_shape(input), input.const_data_ptr<float>(), output.mutable_data_ptr<float>(),
                     argmax.mutable_data_ptr<uint8_t>()});
  return {output, argmax};
}

std::tuple<Tensor, Tensor> max_pool2x2_backward(const Tensor& output_gradient, const Tensor& argmax, int64_t height,
                                                int64_t width, bool channel_sum) {
  const char* op = "max_pool2x2_backward";
  STD_TORCH_CHECK(height >= 2 && width >= 2, op, ": expected an input of at least 2 x 2 pixels, but got ", height,
                  " x ", width);
  check_pooled(output_gradient, argmax, height, width, op);
  const MapShape shape{output_gradient.size(0), height, width, output_gradient.size(1)};
  Tensor gradient = empty_map(shape.batch, shape.channels, height, width);
  Tensor sum = channel_sum ? empty_vector(shape.channels) : nothing();
  run(MaxPoolBackward{shape, output_gradient.const_data_ptr<float>(), argmax.const_data_ptr<uint8_t>(),
                      gradient.mutable_data_ptr<float>(), channel_sum ? sum.mutable_data_ptr<float>() : nullptr});
  return {gradient, sum};
}

PoolAxis pool_axis(const char* op, const char* axis, int64_t size, int64_t pooled, int64_t kernel, int64_t stride,
                   int64_t padding) {
  STD_TORCH_CHECK(kernel >= 1 && stride >= 1 && padding >= 0 && padding <= kernel / 2 && kernel < (1ll << 31) &&
                      stride < (1ll << 31),
                  op, ": expected kernel and stride of at least 1 and padding of at most half the kernel, but got ",
                  kernel, ", ", stride, " and ", padding);
  STD_TORCH_CHECK(size >= 1 && pooled >= 1 && pooled - 1 <= (size - 1 + padding) / stride, op, ": ", pooled,
                  " windows do not begin within a ", axis, " of ", size);
  return {size, pooled, kernel, stride, padding};
}

void check_window(const char* op, int64_t kernel_height, int64_t kernel_width) {
  STD_TORCH_CHECK(kernel_height * kernel_width <= largest_window, op, ": expected windows of at most ", largest_window,
                  " pixels, but got ", kernel_height, " x ", kernel_width);
}

// With mean and invstd of the map that batch_norm_again would make, which is never stored.
std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, const std::optional<Tensor>& norm_weight,
                                      const std::optional<Tensor>& norm_bias, const std::optional<Tensor>& mean,
                                      const std::optional<Tensor>& invstd, int64_t activation, int64_t pooled_height,
                                      int64_t pooled_width, int64_t kernel_height, int64_t kernel_width,
                                      int64_t stride_height, int64_t stride_width, int64_t padding_height,
                                      int64_t padding_width) {
  const char* op = "max_pool2d";
  check_map(input, op, "input");
  const MapShape s = map_shape(input);
  const PoolAxis rows = pool_axis(op, "height", s.height, pooled_height, kernel_height, stride_height, padding_height);
  const PoolAxis columns = pool_axis(op, "width", s.width, pooled_width, kernel_width, stride_width, padding_width);
  check_window(op, kernel_height, kernel_width);
  STD_TORCH_CHECK(mean.has_value() == invstd.has_value(), op, ": expected mean and invstd, or neither");
  STD_TORCH_CHECK(mean || !(norm_weight || norm_bias || activation), op,
                  ": norm_weight, norm_bias and activation belong to a norm of the input, which has mean and invstd");
  const InputNorm norm = mean ? norm_of(op, input, norm_weight, norm_bias, *mean, *invstd, activation) : InputNorm{};
  Tensor output = empty_map(s.batch, s.channels, pooled_height, pooled_width);
  Tensor argmax = empty_map(s.batch, s.channels, pooled_height, pooled_width, ScalarType::Byte);
  run(WindowPoolForward{s.batch, s.channels, rows, columns, input.const_data_ptr<float>(), mean ? &norm : nullptr,
                        output.mutable_data_ptr<float>(), argmax.mutable_data_ptr<uint8_t>()});
  return {output, argmax};
}

Tensor max_pool2d_backward(const Tensor& output_gradient, const Tensor& argmax, int64_t height, int64_t width,
                           int64_t kernel_height, int64_t kernel_width, int64_t stride_height, int64_t stride_width,
                           int64_t padding_height, int64_t padding_width) {
  const char* op = "max_pool2d_backward";
  check_map(output_gradient, op, "output_gradient");
  check_argmax(argmax, output_gradient, op);
  const MapShape s = map_shape(output_gradient);
  const PoolAxis rows = pool_axis(op, "height", height, s.height, kernel_height, stride_height, padding_height);
  const PoolAxis columns = pool_axis(op, "width", width, s.width, kernel_width, stride_width, padding_width);
  check_window(op, kernel_height, kernel_width);
  Tensor gradient = empty_map(s.batch, s.channels, height, width);
  run(WindowPoolBackward{s.batch, s.channels, rows, columns, output_gradient.const_data_ptr<float>(),
                         argmax.const_data_ptr<uint8_t>(), gradient.mutable_data_ptr<float>()});
  return gradient;
}

Tensor avg_pool2d_backward(const Tensor& output_gradient, int64_t height, int64_t width, int64_t kernel_height,
                           int64_t kernel_width, int64_t stride_height, int64_t stride_width, int64_t padding_height,
                           int64_t padding_width, bool count_include_pad, int64_t divisor) {
  const char* op = "avg_pool2d_backward";
  check_map(output_gradient, op, "output_gradient");
  STD_TORCH_CHECK(divisor >= 0, op, ": expected a divisor of at least 0, but got ", divisor);
  const MapShape shape = map_shape(output_gradient);
  const PoolAxis rows = pool_axis(op, "height", height, shape.height, kernel_height, stride_height, padding_height);
  const PoolAxis columns = pool_axis(op, "width", width, shape.width, kernel_width, stride_width, padding_width);
  Tensor gradient = empty_map(shape.batch, shape.channels, height, width);
  run(AveragePoolBackward{shape.batch, shape.channels, rows, columns, count_include_pad, divisor,
                          output_gradient.const_data_ptr<float>(), gradient.mutable_data_ptr<float>()});
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyconvopt, m) {
  m.def("relu(Tensor input) -> Tensor");
  m.def(
      "relu_backward(Tensor output_gradient, Tensor output, bool channel_sum) -> (Tensor input_gradient, Tensor sum)");
  m.def("activation(Tensor input, int function, float alpha, float scale) -> Tensor");
  m.def("activation_backward(Tensor output_gradient, Tensor kept, int function, float alpha, float scale) -> Tensor");
  m.def("channel_sum(Tensor input) -> Tensor");
  m.def("dropout(Tensor input, float p, int seed, int offset) -> Tensor");
  m.def("dropout_channels(Tensor input, float p, int seed, int offset) -> Tensor");
  m.def("max_pool2x2(Tensor input) -> (Tensor output, Tensor argmax)");
  m.def(
      "max_pool2x2_backward(Tensor output_gradient, Tensor argmax, SymInt height, SymInt width, bool channel_sum) "
      "-> (Tensor input_gradient, Tensor sum)");
  m.def(
      "max_pool2d(Tensor input, Tensor? norm_weight, Tensor? norm_bias, Tensor? mean, Tensor? invstd, int activation, "
      "SymInt pooled_height, SymInt pooled_width, int kernel_height, int kernel_width, int stride_height, "
      "int stride_width, int padding_height, int padding_width) -> (Tensor output, Tensor argmax)");
  m.def(
      "max_pool2d_backward(Tensor output_gradient, Tensor argmax, SymInt height, SymInt width, int kernel_height, "
      "int kernel_width, int stride_height, int stride_width, int padding_height, int padding_width) -> Tensor");
  m.def(
      "avg_pool2d_backward(Tensor output_gradient, SymInt height, SymInt width, SymInt kernel_height, "
      "SymInt kernel_width, SymInt stride_height, SymInt stride_width, int padding_height, int padding_width, "
      "bool count_include_pad, int divisor) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CPU, m) {
  m.impl("relu", TORCH_BOX(&relu));
  m.impl("relu_backward", TORCH_BOX(&relu_backward));
  m.impl("activation", TORCH_BOX(&activation));
  m.impl("activation_backward", TORCH_BOX(&activation_backward));
  m.impl("channel_sum", TORCH_BOX(&channel_sum));
  m.impl("dropout", TORCH_BOX(&dropout));
  m.impl("dropout_channels", TORCH_BOX(&dropout_channels));
  m.impl("max_pool2x2", TORCH_BOX(&max_pool2x2));
  m.impl("max_pool2x2_backward", TORCH_BOX(&max_pool2x2_backward));
  m.impl("max_pool2d", TORCH_BOX(&max_pool2d));
  m.impl("max_pool2d_backward", TORCH_BOX(&max_pool2d_backward));
  m.impl("avg_pool2d_backward", TORCH_BOX(&avg_pool2d_backward));
}

}  // namespace pyconvopt::binding
