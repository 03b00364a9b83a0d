// torch.ops.pyconvopt: batch normalisation with what follows it, forward and backward.
#include "dispatch.hpp"
#include "torch_rows.hpp"

namespace pyconvopt::binding {
namespace {

void check_optional_vector(const std::optional<Tensor>& t, int64_t size, const char* op, const char* argument) {
  if (t) check_vector(*t, size, op, argument);
}

// Statistics that a convolution has left; pieces count their rows themselves.
void check_moments(const Tensor& moments, const MapShape& shape, bool training, const char* op) {
  check_float32_cpu(moments, op, "moments");
  STD_TORCH_CHECK(training, op, ": moments are of a batch, and of no use with training=False");
  STD_TORCH_CHECK(moments.dim() == 2 && moments.size(1) == moment_line(shape.channels) && moments.is_contiguous(), op,
                  ": expected moments of ", moment_line(shape.channels), " numbers a piece for ", shape.channels,
                  " channels, but got shape ", shape_text(moments));
  const float* numbers = moments.const_data_ptr<float>();
  double rows = 0;
  for (int64_t piece = 1; piece <= moments.size(0); ++piece) rows += numbers[piece * moments.size(1) - 1];
  STD_TORCH_CHECK(rows == double(shape.rows()), op, ": the moments are of ", rows, " rows, the input has ",
                  shape.rows());
}

// What a batch norm's statistics are taken of and where they go: the whole problem, but for what its output needs.
BatchNormForward statistics_problem(const char* op, const Tensor& input, std::optional<Tensor>& running_mean,
                                    std::optional<Tensor>& running_var, bool training, double momentum, double epsilon,
                                    const std::optional<Tensor>& moments, Tensor& mean, Tensor& invstd) {
  const MapShape shape = map_shape(input);
  check_optional_vector(running_mean, shape.channels, op, "running_mean");
  check_optional_vector(running_var, shape.channels, op, "running_var");
  if (moments) check_moments(*moments, shape, training, op);
  mean = empty_vector(shape.channels);
  invstd = empty_vector(shape.channels);
  return {.shape = shape,
          .input = input.const_data_ptr<float>(),
          .training = training,
          .moments = data_or_null(moments),
          .moment_pieces = moments ? moments->size(0) : 0,
          .running_mean = running_mean ? running_mean->mutable_data_ptr<float>() : nullptr,
          .running_variance = running_var ? running_var->mutable_data_ptr<float>() : nullptr,
          .momentum = momentum,
          .epsilon = epsilon,
          .saved_mean = mean.mutable_data_ptr<float>(),
          .saved_invstd = invstd.mutable_data_ptr<float>()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& input, const std::optional<Tensor>& weight,
                                                   const std::optional<Tensor>& bias,
                                                   const std::optional<Tensor>& residual,
                                                   std::optional<Tensor> running_mean,
                                                   std::optional<Tensor> running_var, bool training, double momentum,
                                                   double epsilon, int64_t activation, bool pool, double dropout,
                                                   int64_t seed, int64_t offset, const std::optional<Tensor>& moments) {
  const char* op = "batch_norm_forward";
  check_rows(input, op, "input");
  const Activation known = norm_options(op, activation, pool, dropout, residual.has_value());
  const MapShape shape = map_shape(input);
  check_optional_vector(weight, shape.channels, op, "weight");
  check_optional_vector(bias, shape.channels, op, "bias");
  STD_TORCH_CHECK(training || (running_mean && running_var), op,
                  ": Expected running_mean and running_var to be defined when training=False");
  if (residual) {
    check_rows(*residual, op, "residual");
    check_same_shape(*residual, input, op, "residual");
  }
  if (pool) check_poolable(input, op);
  Tensor mean, invstd;
  BatchNormForward p =
      statistics_problem(op, input, running_mean, running_var, training, momentum, epsilon, moments, mean, invstd);
  Tensor output = pool ? empty_pooled(input) : empty_rows(input);
  Tensor argmax = pool ? empty_pooled(input, ScalarType::Byte) : nothing(ScalarType::Byte);
  p.weight = data_or_null(weight);
  p.bias = data_or_null(bias);
  p.residual = data_or_null(residual);
  p.activation = known;
  p.pool = pool;
  p.dropout = {dropout, uint64_t(seed), uint64_t(offset)};
  p.output = output.mutable_data_ptr<float>();
  p.argmax = argmax.mutable_data_ptr<uint8_t>();
  run(p);
  return {output, argmax, mean, invstd};
}

// What the forward in training saves, without its output: the convolution behind it makes that while it reads.
std::tuple<Tensor, Tensor> statistics(const Tensor& input, std::optional<Tensor> running_mean,
                                      std::optional<Tensor> running_var, double momentum, double epsilon,
                                      const std::optional<Tensor>& moments) {
  const char* op = "batch_norm_statistics";
  check_rows(input, op, "input");
  Tensor mean, invstd;
  run(statistics_problem(op, input, running_mean, running_var, true, momentum, epsilon, moments, mean, invstd));
  return {mean, invstd};
}

// The forward's output a second time, from what it saved.
Tensor again(const Tensor& input, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, Tensor mean,
             Tensor invstd, int64_t activation) {
  const char* op = "batch_norm_again";
  check_rows(input, op, "input");
  const Activation known = norm_options(op, activation, false, 0, false);
  const MapShape shape = map_shape(input);
  check_optional_vector(weight, shape.channels, op, "weight");
  check_optional_vector(bias, shape.channels, op, "bias");
  check_vector(mean, shape.channels, op, "mean");
  check_vector(invstd, shape.channels, op, "invstd");
  Tensor output = empty_rows(input);
  run(BatchNormForward{.shape = shape,
                       .input = input.const_data_ptr<float>(),
                       .weight = data_or_null(weight),
                       .bias = data_or_null(bias),
                       .activation = known,
                       .output = output.mutable_data_ptr<float>(),
                       .saved_mean = mean.mutable_data_ptr<float>(),  // not written
                       .saved_invstd = invstd.mutable_data_ptr<float>(),
                       .again = true});
  return output;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& output_gradient, const Tensor& input,
                                                    const std::optional<Tensor>& output,
                                                    const std::optional<Tensor>& argmax,
                                                    const std::optional<Tensor>& weight, const Tensor& saved_mean,
                                                    const Tensor& saved_invstd, bool training, int64_t activation,
                                                    bool pool, double dropout, bool input_needed, bool residual_needed,
                                                    const std::optional<Tensor>& bias) {
  const char* op = "batch_norm_backward";
  check_rows(input, op, "input");
  const Activation known = norm_options(op, activation, pool, dropout, residual_needed);
  const MapShape shape = map_shape(input);
  check_optional_vector(weight, shape.channels, op, "weight");
  check_vector(saved_mean, shape.channels, op, "saved_mean");
  check_vector(saved_invstd, shape.channels, op, "saved_invstd");
  const bool masked = known == Activation::relu && !pool;
  if (pool) {
    check_poolable(input, op);
    STD_TORCH_CHECK(argmax, op, ": expected argmax with pool=True");
    check_pooled(output_gradient, *argmax, shape.height, shape.width, op);
    STD_TORCH_CHECK(output_gradient.size(0) == shape.batch && output_gradient.size(1) == shape.channels, op,
                    ": expected output_gradient of ", shape.batch, " images and ", shape.channels,
                    " channels, but got shape ", shape_text(output_gradient));
  } else {
    check_rows(output_gradient, op, "output_gradient");
    check_same_shape(output_gradient, input, op, "output_gradient");
  }
  check_optional_vector(bias, shape.channels, op, "bias");
  STD_TORCH_CHECK(output || !masked || (dropout == 0 && !residual_needed), op,
                  ": expected output with relu=True and dropout or a residual");
  if (masked && output) {
    check_rows(*output, op, "output");
    check_same_shape(*output, input, op, "output");
  }
  Tensor input_gradient = input_needed ? empty_rows(input) : nothing();
  Tensor residual_gradient = residual_needed ? empty_rows(input) : nothing();
  Tensor weight_gradient = empty_vector(shape.channels), bias_gradient = empty_vector(shape.channels);
  run(BatchNormBackward{.shape = shape,
                        .output_gradient = output_gradient.const_data_ptr<float>(),
                        .input = input.const_data_ptr<float>(),
                        .output = masked ? data_or_null(output) : nullptr,
                        .argmax = pool ? argmax->const_data_ptr<uint8_t>() : nullptr,
                        .weight = data_or_null(weight),
                        .bias = data_or_null(bias),
                        .saved_mean = saved_mean.const_data_ptr<float>(),
                        .saved_invstd = saved_invstd.const_data_ptr<float>(),
                        .training = training,
                        .activation = known,
                        .pool = pool,
                        .dropout_probability = dropout,
                        .input_gradient = input_needed ? input_gradient.mutable_data_ptr<float>() : nullptr,
                        .residual_gradient = residual_needed ? residual_gradient.mutable_data_ptr<float>() : nullptr,
                        .weight_gradient = weight_gradient.mutable_data_ptr<float>(),
                        .bias_gradient = bias_gradient.mutable_data_ptr<float>()});
  return {input_gradient, residual_gradient, weight_gradient, bias_gradient};
}

// The input's gradient alone, through activation and batch norm in training, where batch_norm_backward or
// conv2d_gradients found the norm's own before.
Tensor input_gradient(const Tensor& output_gradient, const Tensor& input, const std::optional<Tensor>& weight,
                      const std::optional<Tensor>& bias, const Tensor& saved_mean, const Tensor& saved_invstd,
                      int64_t activation, const Tensor& weight_gradient, const Tensor& bias_gradient) {
  const char* op = "batch_norm_input_gradient";
  check_rows(input, op, "input");
  const Activation known = norm_options(op, activation, false, 0, false);
  const MapShape shape = map_shape(input);
  check_rows(output_gradient, op, "output_gradient");
  check_same_shape(output_gradient, input, op, "output_gradient");
  check_optional_vector(weight, shape.channels, op, "weight");
  check_optional_vector(bias, shape.channels, op, "bias");
  check_vector(saved_mean, shape.channels, op, "saved_mean");
  check_vector(saved_invstd, shape.channels, op, "saved_invstd");
  check_vector(weight_gradient, shape.channels, op, "weight_gradient");
  check_vector(bias_gradient, shape.channels, op, "bias_gradient");
  Tensor gradient = empty_rows(input);
  run(BatchNormBackward{.shape = shape,
                        .output_gradient = output_gradient.const_data_ptr<float>(),
                        .input = input.const_data_ptr<float>(),
                        .weight = data_or_null(weight),
                        .bias = data_or_null(bias),
                        .saved_mean = saved_mean.const_data_ptr<float>(),
                        .saved_invstd = saved_invstd.const_data_ptr<float>(),
                        .activation = known,
                        .input_gradient = gradient.mutable_data_ptr<float>(),
                        .known_weight_gradient = weight_gradient.const_data_ptr<float>(),
                        .known_bias_gradient = bias_gradient.const_data_ptr<float>()});
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyconvopt, m) {
  m.def(
      "batch_norm_forward(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, Tensor(a!)? running_mean, "
      "Tensor(b!)? running_var, bool training, float momentum, float eps, int activation, bool pool, float dropout, "
      "int seed, int offset, Tensor? moments=None) -> (Tensor output, Tensor argmax, Tensor saved_mean, Tensor "
      "saved_invstd)");
  m.def(
      "batch_norm_statistics(Tensor input, Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum, "
      "float eps, Tensor? moments=None) -> (Tensor mean, Tensor invstd)");
  m.def(
      "batch_norm_again(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor invstd, int activation) "
      "-> Tensor");
  m.def(
      "batch_norm_backward(Tensor output_gradient, Tensor input, Tensor? output, Tensor? argmax, Tensor? weight, "
      "Tensor saved_mean, Tensor saved_invstd, bool training, int activation, bool pool, float dropout, "
      "bool input_needed, bool residual_needed, Tensor? bias=None) "
      "-> (Tensor input_gradient, Tensor residual_gradient, Tensor weight_gradient, Tensor bias_gradient)");
  m.def(
      "batch_norm_input_gradient(Tensor output_gradient, Tensor input, Tensor? weight, Tensor? bias, "
      "Tensor saved_mean, Tensor saved_invstd, int activation, Tensor weight_gradient, Tensor bias_gradient) "
      "-> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CPU, m) {
  m.impl("batch_norm_forward", TORCH_BOX(&forward));
  m.impl("batch_norm_statistics", TORCH_BOX(&statistics));
  m.impl("batch_norm_again", TORCH_BOX(&again));
  m.impl("batch_norm_backward", TORCH_BOX(&backward));
  m.impl("batch_norm_input_gradient", TORCH_BOX(&input_gradient));
}

}  // namespace pyconvopt::binding
