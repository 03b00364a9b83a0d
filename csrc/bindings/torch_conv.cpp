// torch.ops.pyconvopt: the three passes of convolution. All maps are float32, channels_last, dense.
#include "torch_conv.hpp"
#include "dispatch.hpp"
#include "torch_rows.hpp"

namespace pyconvopt::binding {
namespace {

void check_weight(const char* op, const Tensor& weight) {
  check_float32_cpu(weight, op, "weight");
  check_weight_dimensions(op, weight);
}

ConvForward forward_problem(const char* op, const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, const Hyper& h, bool relu) {
  check_map(input, op, "input");
  check_float32_cpu(weight, op, "weight");
  const ConvShape s = shape_of(op, input.size(0), input.size(1), input.size(2), input.size(3), weight, h);
  if (bias) check_vector(*bias, s.out_channels, op, "bias");
  return {.shape = s,
          .input = input.const_data_ptr<float>(),
          .weight = weight.const_data_ptr<float>(),
          .weight_strides = strides_of(weight),
          .bias = data_or_null(bias),
          .activation = relu ? Activation::relu : Activation::none};
}

Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, int64_t stride_height,
              int64_t stride_width, int64_t padding_height, int64_t padding_width, int64_t dilation_height,
              int64_t dilation_width, int64_t groups, bool relu) {
  ConvForward p = forward_problem(
      "conv2d", input, weight, bias,
      {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups}, relu);
  Tensor output = empty_map(p.shape.batch, p.shape.out_channels, p.shape.out_height(), p.shape.out_width());
  p.output = output.mutable_data_ptr<float>();
  if (output.numel()) run(p);
  return output;
}

// Runs the problem, unless its output is empty. The statistics of the output's channels, for the batch norm that
// follows (ConvForward::moments).
Tensor run_with_moments(ConvForward& p, const Tensor& output) {
  const int64_t line = moment_line(p.shape.out_channels);
  if (!output.numel()) return empty_strided({0, line}, {1, 1});
  float wanted;  // a kernel asks only whether there are any
  p.moments = &wanted;
  const Kernel<ConvForward>& kernel = choose(p);
  const int64_t pieces = kernel.moment_pieces(p);
  Tensor moments = empty_strided({pieces, line}, {line, 1});
  p.moments = moments.mutable_data_ptr<float>();
  kernel.run(p);
  return moments;
}

std::tuple<Tensor, Tensor> conv2d_moments(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                                          int64_t stride_height, int64_t stride_width, int64_t padding_height,
                                          int64_t padding_width, int64_t dilation_height, int64_t dilation_width,
                                          int64_t groups) {
  ConvForward p = forward_problem(
      "conv2d_moments", input, weight, bias,
      {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups}, false);
  Tensor output = empty_map(p.shape.batch, p.shape.out_channels, p.shape.out_height(), p.shape.out_width());
  p.output = output.mutable_data_ptr<float>();
  return {output, run_with_moments(p, output)};
}

// The convolution of batch_norm_again's output, which is never stored; with `moments` also the statistics of its own.
std::tuple<Tensor, Tensor> conv2d_normalized(const Tensor& input, const std::optional<Tensor>& norm_weight,
                                             const std::optional<Tensor>& norm_bias, const Tensor& mean,
                                             const Tensor& invstd, int64_t activation, const Tensor& weight,
                                             const std::optional<Tensor>& bias, int64_t stride_height,
                                             int64_t stride_width, int64_t padding_height, int64_t padding_width,
                                             int64_t dilation_height, int64_t dilation_width, int64_t groups, bool relu,
                                             bool moments) {
  const char* op = "conv2d_normalized";
  STD_TORCH_CHECK(!(relu && moments), op, ": moments are of the map before relu");
  ConvForward p = forward_problem(
      op, input, weight, bias,
      {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups}, relu);
  const InputNorm norm = norm_of(op, input, norm_weight, norm_bias, mean, invstd, activation);
  p.norm = &norm;
  Tensor output = empty_map(p.shape.batch, p.shape.out_channels, p.shape.out_height(), p.shape.out_width());
  p.output = output.mutable_data_ptr<float>();
  if (moments) return {output, run_with_moments(p, output)};
  if (output.numel()) run(p);
  return {output, nothing()};
}

std::tuple<Tensor, Tensor> conv2d_max_pool(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                                           int64_t stride_height, int64_t stride_width, int64_t padding_height,
                                           int64_t padding_width, int64_t dilation_height, int64_t dilation_width,
                                           int64_t groups, bool relu) {
  ConvForward p = forward_problem(
      "conv2d_max_pool", input, weight, bias,
      {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups}, relu);
  const int64_t height = p.shape.out_height() / 2, width = p.shape.out_width() / 2;
  STD_TORCH_CHECK(height > 0 && width > 0, "conv2d_max_pool: the convolution's output is ", p.shape.out_height(), " x ",
                  p.shape.out_width(), ", too small for a 2 x 2 pool");
  Tensor output = empty_map(p.shape.batch, p.shape.out_channels, height, width);
  Tensor argmax = empty_map(p.shape.batch, p.shape.out_channels, height, width, ScalarType::Byte);
  p.pool = true;
  p.output = output.mutable_data_ptr<float>();
  p.argmax = argmax.mutable_data_ptr<uint8_t>();
  if (output.numel()) run(p);
  return {output, argmax};
}

Tensor conv2d_data_gradient(const Tensor& output_gradient, const Tensor& weight, int64_t height, int64_t width,
                            int64_t stride_height, int64_t stride_width, int64_t padding_height, int64_t padding_width,
                            int64_t dilation_height, int64_t dilation_width, int64_t groups) {
  const char* op = "conv2d_data_gradient";
  check_map(output_gradient, op, "output_gradient");
  check_weight(op, weight);
  const ConvShape s =
      shape_of(op, output_gradient.size(0), weight.size(1) * groups, height, width, weight,
               {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups});
  check_output_gradient(op, output_gradient, s);
  Tensor gradient = empty_map(s.batch, s.in_channels, height, width);
  if (gradient.numel())
    run(ConvDataGradient{s, output_gradient.const_data_ptr<float>(), weight.const_data_ptr<float>(), strides_of(weight),
                         gradient.mutable_data_ptr<float>()});
  return gradient;
}

void check_pooled_gradient(const char* op, const Tensor& output_gradient, const Tensor& argmax, const ConvShape& s) {
  check_pooled(output_gradient, argmax, s.out_height(), s.out_width(), op);
  STD_TORCH_CHECK(output_gradient.size(0) == s.batch && output_gradient.size(1) == s.out_channels, op,
                  ": expected output_gradient of ", s.batch, " images and ", s.out_channels,
                  " channels, but got shape ", shape_text(output_gradient));
}

// From the gradient of a 2×2-pooled output; see conv2d_max_pool.
Tensor conv2d_max_pool_data_gradient(const Tensor& output_gradient, const Tensor& argmax, const Tensor& weight,
                                     int64_t height, int64_t width, int64_t stride_height, int64_t stride_width,
                                     int64_t padding_height, int64_t padding_width, int64_t dilation_height,
                                     int64_t dilation_width, int64_t groups) {
  const char* op = "conv2d_max_pool_data_gradient";
  check_weight(op, weight);
  STD_TORCH_CHECK(output_gradient.dim() == 4, op, ": expected output_gradient of 4 dimensions, but got shape ",
                  shape_text(output_gradient));
  const ConvShape s =
      shape_of(op, output_gradient.size(0), weight.size(1) * groups, height, width, weight,
               {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups});
  check_pooled_gradient(op, output_gradient, argmax, s);
  Tensor gradient = empty_map(s.batch, s.in_channels, height, width);
  if (!output_gradient.numel()) return torch::stable::zero_(gradient);  // its argmax has no address to tell by
  if (gradient.numel())
    run(ConvDataGradient{s, output_gradient.const_data_ptr<float>(), weight.const_data_ptr<float>(), strides_of(weight),
                         gradient.mutable_data_ptr<float>(), argmax.const_data_ptr<uint8_t>()});
  return gradient;
}

Tensor empty_like_weight(const Tensor& weight) { return empty_strided(sizes_of(weight), gradient_strides(weight)); }

ConvWeightGradient weight_gradient_problem(const char* op, const Tensor& input, const Tensor& output_gradient,
                                           const Tensor& weight, const Hyper& h) {
  check_map(input, op, "input");
  check_map(output_gradient, op, "output_gradient");
  check_float32_cpu(weight, op, "weight");
  const ConvShape s = shape_of(op, input.size(0), input.size(1), input.size(2), input.size(3), weight, h);
  check_output_gradient(op, output_gradient, s);
  return {.shape = s,
          .input = input.const_data_ptr<float>(),
          .output_gradient = output_gradient.const_data_ptr<float>(),
          .weight_strides = {}};
}

Tensor run_into_gradient(ConvWeightGradient& p, const Tensor& weight) {
  Tensor gradient = empty_like_weight(weight);
  if (!gradient.numel()) return gradient;
  if (p.shape.batch * p.shape.out_height() * p.shape.out_width() == 0) return torch::stable::zero_(gradient);
  p.weight_gradient = gradient.mutable_data_ptr<float>();
  p.weight_strides = strides_of(gradient);
  run(p);
  return gradient;
}

// `weight` gives the shape and the strides of the result; its values are not read.
Tensor conv2d_weight_gradient(const Tensor& input, const Tensor& output_gradient, const Tensor& weight,
                              int64_t stride_height, int64_t stride_width, int64_t padding_height,
                              int64_t padding_width, int64_t dilation_height, int64_t dilation_width, int64_t groups) {
  ConvWeightGradient p = weight_gradient_problem(
      "conv2d_weight_gradient", input, output_gradient, weight,
      {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups});
  return run_into_gradient(p, weight);
}

// See conv2d_normalized.
Tensor conv2d_normalized_weight_gradient(const Tensor& input, const std::optional<Tensor>& norm_weight,
                                         const std::optional<Tensor>& norm_bias, const Tensor& mean,
                                         const Tensor& invstd, int64_t activation, const Tensor& output_gradient,
                                         const Tensor& weight, int64_t stride_height, int64_t stride_width,
                                         int64_t padding_height, int64_t padding_width, int64_t dilation_height,
                                         int64_t dilation_width, int64_t groups) {
  const char* op = "conv2d_normalized_weight_gradient";
  ConvWeightGradient p = weight_gradient_problem(
      op, input, output_gradient, weight,
      {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups});
  const InputNorm norm = norm_of(op, input, norm_weight, norm_bias, mean, invstd, activation);
  p.norm = &norm;
  return run_into_gradient(p, weight);
}

// Both gradients of a convolution whose output, `map`, a batch norm in training alone read: from the gradient behind
// that and its activation, and what batch_norm_backward made of it for the norm's weight and bias. The first five
// describe the input: as conv2d_normalized takes it, or without mean and invstd the input itself. Of its norm also what
// batch_norm_backward would find of the input's gradient for weight and bias.
std::tuple<Tensor, Tensor, Tensor, Tensor> conv2d_gradients(
    const Tensor& input, const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias,
    const std::optional<Tensor>& mean, const std::optional<Tensor>& invstd, int64_t activation,
    const Tensor& output_gradient, const Tensor& map, const std::optional<Tensor>& map_weight,
    const std::optional<Tensor>& map_bias, const Tensor& map_mean, const Tensor& map_invstd, int64_t map_activation,
    const Tensor& map_weight_gradient, const Tensor& map_bias_gradient, const Tensor& weight, int64_t stride_height,
    int64_t stride_width, int64_t padding_height, int64_t padding_width, int64_t dilation_height,
    int64_t dilation_width, int64_t groups) {
  const char* op = "conv2d_gradients";
  const ConvWeightGradient known = weight_gradient_problem(
      op, input, output_gradient, weight,
      {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups});
  check_map(map, op, "map");
  check_same_shape(map, output_gradient, op, "map");
  const InputNorm map_norm = norm_of(op, map, map_weight, map_bias, map_mean, map_invstd, map_activation);
  check_vector(map_weight_gradient, map.size(1), op, "map_weight_gradient");
  check_vector(map_bias_gradient, map.size(1), op, "map_bias_gradient");
  STD_TORCH_CHECK(mean.has_value() == invstd.has_value(), op, ": expected mean and invstd, or neither");
  const InputNorm norm = mean ? norm_of(op, input, norm_weight, norm_bias, *mean, *invstd, activation) : InputNorm{};
  const ConvShape& s = known.shape;
  Tensor input_gradient = empty_map(s.batch, s.in_channels, s.in_height, s.in_width);
  Tensor weight_gradient = empty_like_weight(weight);
  const int64_t sums = mean ? s.in_channels : 0;
  Tensor norm_weight_gradient = empty_vector(sums), norm_bias_gradient = empty_vector(sums);
  if (!input_gradient.numel() || !map.numel())
    return {torch::stable::zero_(input_gradient), torch::stable::zero_(weight_gradient),
            torch::stable::zero_(norm_weight_gradient), torch::stable::zero_(norm_bias_gradient)};
  run(ConvGradients{.shape = s,
                    .input = known.input,
                    .norm = mean ? &norm : nullptr,
                    .output_gradient = known.output_gradient,
                    .output_norm = {map.const_data_ptr<float>(), map_norm, map_weight_gradient.const_data_ptr<float>(),
                                    map_bias_gradient.const_data_ptr<float>()},
                    .weight = weight.const_data_ptr<float>(),
                    .weight_strides = strides_of(weight),
                    .input_gradient = input_gradient.mutable_data_ptr<float>(),
                    .weight_gradient = weight_gradient.mutable_data_ptr<float>(),
                    .weight_gradient_strides = strides_of(weight_gradient),
                    .norm_weight_gradient = mean ? norm_weight_gradient.mutable_data_ptr<float>() : nullptr,
                    .norm_bias_gradient = mean ? norm_bias_gradient.mutable_data_ptr<float>() : nullptr});
  return {input_gradient, weight_gradient, norm_weight_gradient, norm_bias_gradient};
}

// Weight and bias gradients from the gradient of a 2×2-pooled output; see conv2d_max_pool.
std::tuple<Tensor, Tensor> conv2d_max_pool_weight_gradient(const Tensor& input, const Tensor& output_gradient,
                                                           const Tensor& argmax, const Tensor& weight,
                                                           int64_t stride_height, int64_t stride_width,
                                                           int64_t padding_height, int64_t padding_width,
                                                           int64_t dilation_height, int64_t dilation_width,
                                                           int64_t groups) {
  const char* op = "conv2d_max_pool_weight_gradient";
  check_map(input, op, "input");
  check_float32_cpu(weight, op, "weight");
  const ConvShape s =
      shape_of(op, input.size(0), input.size(1), input.size(2), input.size(3), weight,
               {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups});
  check_pooled_gradient(op, output_gradient, argmax, s);
  Tensor gradient = empty_like_weight(weight), bias = empty_vector(s.out_channels);
  if (!output_gradient.numel()) return {torch::stable::zero_(gradient), torch::stable::zero_(bias)};
  run(ConvWeightGradient{.shape = s,
                         .input = input.const_data_ptr<float>(),
                         .output_gradient = output_gradient.const_data_ptr<float>(),
                         .weight_gradient = gradient.mutable_data_ptr<float>(),
                         .weight_strides = strides_of(gradient),
                         .argmax = argmax.const_data_ptr<uint8_t>(),
                         .bias_gradient = bias.mutable_data_ptr<float>()});
  return {gradient, bias};
}

}  // namespace

STABLE_TORCH_LIBRARY(pyconvopt, m) {
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, int stride_height, int stride_width, int padding_height, "
      "int padding_width, int dilation_height, int dilation_width, int groups, bool relu) -> Tensor");
  m.def(
      "conv2d_moments(Tensor input, Tensor weight, Tensor? bias, int stride_height, int stride_width, "
      "int padding_height, int padding_width, int dilation_height, int dilation_width, int groups) "
      "-> (Tensor output, Tensor moments)");
  m.def(
      "conv2d_normalized(Tensor input, Tensor? norm_weight, Tensor? norm_bias, Tensor mean, Tensor invstd, "
      "int activation, Tensor weight, Tensor? bias, int stride_height, int stride_width, int padding_height, "
      "int padding_width, int dilation_height, int dilation_width, int groups, bool relu, bool moments) "
      "-> (Tensor output, Tensor moments)");
  m.def(
      "conv2d_normalized_weight_gradient(Tensor input, Tensor? norm_weight, Tensor? norm_bias, Tensor mean, "
      "Tensor invstd, int activation, Tensor output_gradient, Tensor weight, int stride_height, int stride_width, "
      "int padding_height, int padding_width, int dilation_height, int dilation_width, int groups) -> Tensor");
  m.def(
      "conv2d_gradients(Tensor input, Tensor? norm_weight, Tensor? norm_bias, Tensor? mean, Tensor? invstd, "
      "int activation, Tensor output_gradient, Tensor map, Tensor? map_weight, Tensor? map_bias, Tensor map_mean, "
      "Tensor map_invstd, int map_activation, Tensor map_weight_gradient, Tensor map_bias_gradient, Tensor weight, "
      "int stride_height, int stride_width, int padding_height, int padding_width, int dilation_height, "
      "int dilation_width, int groups) -> (Tensor input_gradient, Tensor weight_gradient, Tensor norm_weight_gradient, "
      "Tensor norm_bias_gradient)");
  m.def(
      "conv2d_max_pool(Tensor input, Tensor weight, Tensor? bias, int stride_height, int stride_width, "
      "int padding_height, int padding_width, int dilation_height, int dilation_width, int groups, bool relu) "
      "-> (Tensor, Tensor)");
  m.def(
      "conv2d_data_gradient(Tensor output_gradient, Tensor weight, SymInt height, SymInt width, int stride_height, "
      "int stride_width, int padding_height, int padding_width, int dilation_height, int dilation_width, int groups) "
      "-> Tensor");
  m.def(
      "conv2d_max_pool_data_gradient(Tensor output_gradient, Tensor argmax, Tensor weight, SymInt height, "
      "SymInt width, int stride_height, int stride_width, int padding_height, int padding_width, "
      "int dilation_height, int dilation_width, int groups) -> Tensor");
  m.def(
      "conv2d_weight_gradient(Tensor input, Tensor output_gradient, Tensor weight, int stride_height, "
      "int stride_width, int padding_height, int padding_width, int dilation_height, int dilation_width, int groups) "
      "-> Tensor");
  m.def(
      "conv2d_max_pool_weight_gradient(Tensor input, Tensor output_gradient, Tensor argmax, Tensor weight, "
      "int stride_height, int stride_width, int padding_height, int padding_width, int dilation_height, "
      "int dilation_width, int groups) -> (Tensor weight_gradient, Tensor bias_gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_moments", TORCH_BOX(&conv2d_moments));
  m.impl("conv2d_normalized", TORCH_BOX(&conv2d_normalized));
  m.impl("conv2d_normalized_weight_gradient", TORCH_BOX(&conv2d_normalized_weight_gradient));
  m.impl("conv2d_gradients", TORCH_BOX(&conv2d_gradients));
  m.impl("conv2d_max_pool", TORCH_BOX(&conv2d_max_pool));
  m.impl("conv2d_data_gradient", TORCH_BOX(&conv2d_data_gradient));
  m.impl("conv2d_max_pool_data_gradient", TORCH_BOX(&conv2d_max_pool_data_gradient));
  m.impl("conv2d_weight_gradient", TORCH_BOX(&conv2d_weight_gradient));
  m.impl("conv2d_max_pool_weight_gradient", TORCH_BOX(&conv2d_max_pool_weight_gradient));
}

}  // namespace pyconvopt::binding
