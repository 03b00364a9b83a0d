// torch.ops.pyconvopt on CUDA tensors: batch normalisation with residual, ReLU and dropout in one pass.
// Maps are float32, float16 or bfloat16 in either memory format; parameters and statistics float32.
#include "torch_cuda.hpp"

namespace pyconvopt::binding {
namespace {

bool relu_of(const char* op, int64_t activation, bool pool, double dropout, bool residual) {
  const Activation known = norm_options(op, activation, pool, dropout, residual);
  STD_TORCH_CHECK(known <= Activation::relu, op, ": on CUDA the activation is relu or none");
  STD_TORCH_CHECK(!pool, op, ": pool=True has no CUDA kernel; use torch.ops.pyconvopt.max_pool2x2 behind it");
  return known == Activation::relu;
}

// As a convolution here tells them.
void check_moments(const Tensor& t, const PyconvoptMap& map, const Tensor& like, bool training, const char* op) {
  const int64_t rows = map.batch * map.height * map.width;
  const int64_t chunks = (rows + PYCONVOPT_MOMENT_ROWS - 1) / PYCONVOPT_MOMENT_ROWS;
  check_float32_on_cuda(t, like, op, "moments");
  STD_TORCH_CHECK(training, op, ": moments are for training");
  STD_TORCH_CHECK(
      t.dim() == 3 && t.size(0) == 2 && t.size(1) == chunks && t.size(2) == map.channels && t.is_contiguous(), op,
      ": expected moments of shape [2, ", chunks, ", ", map.channels, "] without gaps, but got ", shape_text(t));
}

float* mutable_or_null(const std::optional<Tensor>& t) { return t ? t->mutable_data_ptr<float>() : nullptr; }

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& input, const std::optional<Tensor>& weight,
                                                   const std::optional<Tensor>& bias,
                                                   const std::optional<Tensor>& residual,
                                                   std::optional<Tensor> running_mean,
                                                   std::optional<Tensor> running_var, bool training, double momentum,
                                                   double epsilon, int64_t activation, bool pool, double dropout,
                                                   int64_t seed, int64_t offset, const std::optional<Tensor>& moments) {
  const char* op = "batch_norm_forward";
  const PyconvoptMap map = cuda_map(input, op, "input");
  const bool relu = relu_of(op, activation, pool, dropout, residual.has_value());
  check_cuda_vector(weight, map.channels, input, op, "weight");
  check_cuda_vector(bias, map.channels, input, op, "bias");
  check_cuda_vector(running_mean, map.channels, input, op, "running_mean");
  check_cuda_vector(running_var, map.channels, input, op, "running_var");
  STD_TORCH_CHECK(training || (running_mean && running_var), op,
                  ": Expected running_mean and running_var to be defined when training=False");
  if (residual) check_like_on_cuda(*residual, input, op, "residual");
  if (moments) check_moments(*moments, map, input, training, op);
  const OnCuda gpu(input, op);
  Tensor output = empty_like_on_cuda(input, map), argmax = nothing_on_cuda(ScalarType::Byte, input);
  Tensor mean = empty_cuda_vector(map.channels, input), invstd = empty_cuda_vector(map.channels, input);
  PyconvoptBatchNormForward p{.shape = map,
                              .input = input.const_data_ptr(),
                              .weight = data_or_null(weight),
                              .bias = data_or_null(bias),
                              .residual = untyped_or_null(residual),
                              .training = training,
                              .relu = relu,
                              .running_mean = mutable_or_null(running_mean),
                              .running_variance = mutable_or_null(running_var),
                              .momentum = momentum,
                              .epsilon = epsilon,
                              .dropout = {dropout, uint64_t(seed), uint64_t(offset)},
                              .output = output.mutable_data_ptr(),
                              .saved_mean = mean.mutable_data_ptr<float>(),
                              .saved_invstd = invstd.mutable_data_ptr<float>(),
                              .workspace = nullptr,
                              .moments = data_or_null(moments),
                              .moment_rows = PYCONVOPT_MOMENT_ROWS};
  const Tensor workspace = workspace_on_cuda(training ? gpu.library().batch_norm_forward_workspace(&p) : 0, input);
  p.workspace = workspace.mutable_data_ptr();
  if (map.channels) gpu.launch(gpu.library().batch_norm_forward, p);
  return {output, argmax, mean, invstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& output_gradient, const Tensor& input,
                                                    const std::optional<Tensor>& output,
                                                    const std::optional<Tensor>&,  // argmax
                                                    const std::optional<Tensor>& weight, const Tensor& saved_mean,
                                                    const Tensor& saved_invstd, bool training, int64_t activation,
                                                    bool pool, double dropout, bool input_needed, bool residual_needed,
                                                    const std::optional<Tensor>& bias) {
  const char* op = "batch_norm_backward";
  const PyconvoptMap map = cuda_map(input, op, "input");
  const bool relu = relu_of(op, activation, pool, dropout, residual_needed);
  check_like_on_cuda(output_gradient, input, op, "output_gradient");
  check_cuda_vector(weight, map.channels, input, op, "weight");
  check_cuda_vector(bias, map.channels, input, op, "bias");
  check_cuda_vector(saved_mean, map.channels, input, op, "saved_mean");
  check_cuda_vector(saved_invstd, map.channels, input, op, "saved_invstd");
  STD_TORCH_CHECK(output || !relu || (dropout == 0 && !residual_needed), op,
                  ": expected output with relu=True and dropout or a residual");
  if (relu && output) check_like_on_cuda(*output, input, op, "output");
  const OnCuda gpu(input, op);
  const auto gradient = [&](bool needed) {
    return needed ? empty_like_on_cuda(input, map) : nothing_on_cuda(input.scalar_type(), input);
  };
  Tensor input_gradient = gradient(input_needed), residual_gradient = gradient(residual_needed);
  Tensor weight_gradient = empty_cuda_vector(map.channels, input),
         bias_gradient = empty_cuda_vector(map.channels, input);
  PyconvoptBatchNormBackward p{.shape = map,
                               .output_gradient = output_gradient.const_data_ptr(),
                               .input = input.const_data_ptr(),
                               .output = relu ? untyped_or_null(output) : nullptr,
                               .weight = data_or_null(weight),
                               .bias = data_or_null(bias),
                               .saved_mean = saved_mean.const_data_ptr<float>(),
                               .saved_invstd = saved_invstd.const_data_ptr<float>(),
                               .training = training,
                               .relu = relu,
                               // where the mask dropped an element, the output is 0 as where ReLU did
                               .dropout = {dropout, 0, 0},
                               .input_gradient = input_needed ? input_gradient.mutable_data_ptr() : nullptr,
                               .residual_gradient = residual_needed ? residual_gradient.mutable_data_ptr() : nullptr,
                               .weight_gradient = weight_gradient.mutable_data_ptr<float>(),
                               .bias_gradient = bias_gradient.mutable_data_ptr<float>(),
                               .workspace = nullptr};
  const Tensor workspace = workspace_on_cuda(gpu.library().batch_norm_backward_workspace(&p), input);
  p.workspace = workspace.mutable_data_ptr();
  if (map.channels) gpu.launch(gpu.library().batch_norm_backward, p);
  return {input_gradient, residual_gradient, weight_gradient, bias_gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CUDA, m) {
  m.impl("batch_norm_forward", TORCH_BOX(&forward));
  m.impl("batch_norm_backward", TORCH_BOX(&backward));
}

}  // namespace pyconvopt::binding
