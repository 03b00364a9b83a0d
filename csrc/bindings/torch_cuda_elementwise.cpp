// torch.ops.pyconvopt on CUDA tensors: dropout and 2×2 max-pooling, of float32, float16 and bfloat16 maps.
#include "torch_cuda.hpp"

namespace pyconvopt::binding {
namespace {

// `map` may be the row of all elements: whole channels alone need the shape.
Tensor drop(const char* op, const Tensor& input, const PyconvoptMap& map, double p, int64_t seed, int64_t offset,
            bool whole_channels) {
  check_probability(p, op);
  const OnCuda gpu(input, op);
  Tensor output = torch::stable::empty_like(input);
  if (input.numel())
    gpu.launch(gpu.library().dropout, PyconvoptDropout{.shape = map,
                                                       .input = input.const_data_ptr(),
                                                       .key = {p, uint64_t(seed), uint64_t(offset)},
                                                       .whole_channels = whole_channels,
                                                       .output = output.mutable_data_ptr()});
  return output;
}

Tensor dropout(const Tensor& input, double p, int64_t seed, int64_t offset) {
  const char* op = "dropout";
  STD_TORCH_CHECK(input.is_cuda(), op, ": expected input on a CUDA device");
  STD_TORCH_CHECK(input.numel() == 0 || dense_contiguous(input) || (input.dim() == 4 && dense_channels_last(input)), op,
                  ": expected input to be contiguous or in dense channels_last memory format, but got shape ",
                  shape_text(input), " with other strides");
  const PyconvoptMap row{input.numel(), 1, 1, 1, PYCONVOPT_NHWC, cuda_type(input, op, "input")};
  return drop(op, input, row, p, seed, offset, false);
}

Tensor dropout_channels(const Tensor& input, double p, int64_t seed, int64_t offset) {
  const char* op = "dropout_channels";
  const PyconvoptMap map = cuda_map(input, op, "input");
  check_4d(input, op, "input");
  return drop(op, input, map, p, seed, offset, true);
}

std::tuple<Tensor, Tensor> max_pool2x2(const Tensor& input) {
  const char* op = "max_pool2x2";
  const PyconvoptMap map = cuda_map(input, op, "input");
  check_poolable(input, op);
  const OnCuda gpu(input, op);
  const auto pooled = [&](ScalarType type) {
    return empty_cuda_map(map.batch, map.channels, map.height / 2, map.width / 2, map.layout, type, input);
  };
  Tensor output = pooled(input.scalar_type()), argmax = pooled(ScalarType::Byte);
  gpu.launch(gpu.library().max_pool_forward,
             PyconvoptMaxPoolForward{map, input.const_data_ptr(), output.mutable_data_ptr(),
                                     argmax.mutable_data_ptr<uint8_t>()});
  return {output, argmax};
}

std::tuple<Tensor, Tensor> max_pool2x2_backward(const Tensor& output_gradient, const Tensor& argmax, int64_t height,
                                                int64_t width, bool channel_sum) {
  const char* op = "max_pool2x2_backward";
  PyconvoptMap map = cuda_map(output_gradient, op, "output_gradient");
  check_4d(output_gradient, op, "output_gradient");
  STD_TORCH_CHECK(!channel_sum, op, ": channel_sum=True has no CUDA kernel; sum the gradient behind it");
  STD_TORCH_CHECK(height >= 2 && width >= 2, op, ": expected an input of at least 2 x 2 pixels, but got ", height,
                  " x ", width);
  STD_TORCH_CHECK(map.height == height / 2 && map.width == width / 2, op, ": expected output_gradient of ", height / 2,
                  " x ", width / 2, " pixels, but got shape ", shape_text(output_gradient));
  check_on_cuda(argmax, output_gradient, op, "argmax");
  STD_TORCH_CHECK(argmax.scalar_type() == ScalarType::Byte, op, ": expected argmax of dtype uint8");
  check_same_order(argmax, output_gradient, op, "argmax");
  map.height = height;
  map.width = width;
  const OnCuda gpu(output_gradient, op);
  Tensor gradient = empty_like_on_cuda(output_gradient, map);
  gpu.launch(gpu.library().max_pool_backward,
             PyconvoptMaxPoolBackward{map, output_gradient.const_data_ptr(), argmax.const_data_ptr<uint8_t>(),
                                      gradient.mutable_data_ptr()});
  return {gradient, nothing_on_cuda(output_gradient.scalar_type(), output_gradient)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CUDA, m) {
  m.impl("dropout", TORCH_BOX(&dropout));
  m.impl("dropout_channels", TORCH_BOX(&dropout_channels));
  m.impl("max_pool2x2", TORCH_BOX(&max_pool2x2));
  m.impl("max_pool2x2_backward", TORCH_BOX(&max_pool2x2_backward));
}

}  // namespace pyconvopt::binding
