// torch.ops.pyconvopt on CUDA tensors: the three passes of convolution, float32 maps in either memory format.
#include "torch_conv.hpp"
#include "torch_cuda.hpp"

namespace pyconvopt::binding {
namespace {

PyconvoptMap float32_map(const Tensor& t, const char* op, const char* argument) {
  check_4d(t, op, argument);
  const PyconvoptMap map = cuda_map(t, op, argument);
  check_float32_on_cuda(t, t, op, argument);
  return map;
}

PyconvoptConv conv_of(const ConvShape& s, int32_t layout, const WeightStrides& strides) {
  return {.input = {s.batch, s.in_channels, s.in_height, s.in_width, layout, PYCONVOPT_FLOAT32},
          .out_channels = s.out_channels,
          .kernel_height = s.kernel_height,
          .kernel_width = s.kernel_width,
          .stride_height = s.stride_height,
          .stride_width = s.stride_width,
          .padding_height = s.padding_height,
          .padding_width = s.padding_width,
          .dilation_height = s.dilation_height,
          .dilation_width = s.dilation_width,
          .groups = s.groups,
          .weight_out_channel = strides.out_channel,
          .weight_in_channel = strides.in_channel,
          .weight_row = strides.row,
          .weight_column = strides.column,
          .math = cuda_math()};
}

// `moments`: none, or where to put those of the output, (2, chunks, channels).
Tensor forward(const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
               const Hyper& hyper, bool relu, std::optional<Tensor>* moments) {
  const PyconvoptMap map = float32_map(input, op, "input");
  check_float32_on_cuda(weight, input, op, "weight");
  const ConvShape s = shape_of(op, map.batch, map.channels, map.height, map.width, weight, hyper);
  check_cuda_vector(bias, s.out_channels, input, op, "bias");
  STD_TORCH_CHECK(!moments || s.groups != s.in_channels || s.groups != s.out_channels, op,
                  ": a depthwise convolution has no moments on CUDA");
  const OnCuda gpu(input, op);
  Tensor output =
      empty_cuda_map(s.batch, s.out_channels, s.out_height(), s.out_width(), map.layout, ScalarType::Float, input);
  PyconvoptConvForward p{.shape = conv_of(s, map.layout, strides_of(weight)),
                         .input = input.const_data_ptr(),
                         .weight = weight.const_data_ptr<float>(),
                         .bias = data_or_null(bias),
                         .relu = relu,
                         .output = output.mutable_data_ptr(),
                         .moments = nullptr};
  if (moments) {
    const int64_t c = s.out_channels, chunks = gpu.library().conv_forward_moments(&p) / (2 * c);
    *moments = empty_on_cuda({2, chunks, c}, {chunks * c, c, 1}, ScalarType::Float, input);
    p.moments = (*moments)->mutable_data_ptr<float>();
  }
  if (output.numel()) gpu.launch(gpu.library().conv_forward, p);
  return output;
}

Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, int64_t stride_height,
              int64_t stride_width, int64_t padding_height, int64_t padding_width, int64_t dilation_height,
              int64_t dilation_width, int64_t groups, bool relu) {
  return forward("conv2d", input, weight, bias,
                 {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups},
                 relu, nullptr);
}

// The output, and its moments for the batch norm behind.
std::tuple<Tensor, Tensor> conv2d_moments(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                                          int64_t stride_height, int64_t stride_width, int64_t padding_height,
                                          int64_t padding_width, int64_t dilation_height, int64_t dilation_width,
                                          int64_t groups) {
  std::optional<Tensor> moments;
  Tensor output =
      forward("conv2d_moments", input, weight, bias,
              {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups},
              false, &moments);
  return {output, *moments};
}

Tensor conv2d_data_gradient(const Tensor& output_gradient, const Tensor& weight, int64_t height, int64_t width,
                            int64_t stride_height, int64_t stride_width, int64_t padding_height, int64_t padding_width,
                            int64_t dilation_height, int64_t dilation_width, int64_t groups) {
  const char* op = "conv2d_data_gradient";
  const PyconvoptMap map = float32_map(output_gradient, op, "output_gradient");
  check_float32_on_cuda(weight, output_gradient, op, "weight");
  check_weight_dimensions(op, weight);
  const ConvShape s =
      shape_of(op, map.batch, weight.size(1) * groups, height, width, weight,
               {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups});
  check_output_gradient(op, output_gradient, s);
  const OnCuda gpu(output_gradient, op);
  Tensor gradient =
      empty_cuda_map(s.batch, s.in_channels, height, width, map.layout, ScalarType::Float, output_gradient);
  if (gradient.numel())
    gpu.launch(gpu.library().conv_data_gradient,
               PyconvoptConvDataGradient{.shape = conv_of(s, map.layout, strides_of(weight)),
                                         .output_gradient = output_gradient.const_data_ptr(),
                                         .weight = weight.const_data_ptr<float>(),
                                         .input_gradient = gradient.mutable_data_ptr()});
  return gradient;
}

// `weight` gives the shape and the strides of the result; its values are not read.
Tensor conv2d_weight_gradient(const Tensor& input, const Tensor& output_gradient, const Tensor& weight,
                              int64_t stride_height, int64_t stride_width, int64_t padding_height,
                              int64_t padding_width, int64_t dilation_height, int64_t dilation_width, int64_t groups) {
  const char* op = "conv2d_weight_gradient";
  const PyconvoptMap map = float32_map(input, op, "input");
  const PyconvoptMap output_map = float32_map(output_gradient, op, "output_gradient");
  check_on_cuda(output_gradient, input, op, "output_gradient");
  check_float32_on_cuda(weight, input, op, "weight");
  const ConvShape s =
      shape_of(op, map.batch, map.channels, map.height, map.width, weight,
               {stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups});
  check_output_gradient(op, output_gradient, s);
  // One of them may be in both orders at once.
  const bool last = dense_channels_last(input) && dense_channels_last(output_gradient);
  STD_TORCH_CHECK(last || (dense_contiguous(input) && dense_contiguous(output_gradient)) || !output_gradient.numel(),
                  op, ": expected input and output_gradient in the same memory format");
  const int32_t layout = map.layout == output_map.layout ? map.layout : last ? PYCONVOPT_NHWC : PYCONVOPT_NCHW;
  const OnCuda gpu(input, op);
  Tensor gradient = empty_on_cuda(sizes_of(weight), gradient_strides(weight), ScalarType::Float, input);
  if (!gradient.numel()) return gradient;
  if (!output_gradient.numel()) return torch::stable::zero_(gradient);
  PyconvoptConvWeightGradient p{.shape = conv_of(s, layout, strides_of(gradient)),
                                .input = input.const_data_ptr(),
                                .output_gradient = output_gradient.const_data_ptr(),
                                .weight_gradient = gradient.mutable_data_ptr<float>(),
                                .workspace = nullptr};
  const Tensor workspace = workspace_on_cuda(gpu.library().conv_weight_gradient_workspace(&p), input);
  p.workspace = workspace.mutable_data_ptr();
  gpu.launch(gpu.library().conv_weight_gradient, p);
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CUDA, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_moments", TORCH_BOX(&conv2d_moments));
  m.impl("conv2d_data_gradient", TORCH_BOX(&conv2d_data_gradient));
  m.impl("conv2d_weight_gradient", TORCH_BOX(&conv2d_weight_gradient));
}

}  // namespace pyconvopt::binding
