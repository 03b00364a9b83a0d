// The entries of convolution: the checks, and the choice between depthwise and dense.
#include "conv.cuh"

namespace pyconvopt::cuda {
namespace {

// Pixels of all images, and whatever a kernel adds to them, are counted in 32 bits.
int check_convolution(const PyconvoptConv& c) {
  if (const int error = cuda::check(c.input)) return error;
  constexpr int64_t largest = int64_t(1) << 30;
  const int64_t positive[] = {c.kernel_height,   c.kernel_width,   c.stride_height, c.stride_width,
                              c.dilation_height, c.dilation_width, c.groups,        c.out_channels};
  for (const int64_t value : positive) {
    if (value < 1) return PYCONVOPT_CUDA_BAD_ARGUMENT;
    if (value >= 1 << 15) return PYCONVOPT_CUDA_TOO_LARGE;
  }
  if (c.math < PYCONVOPT_MATH_FLOAT32 || c.math > PYCONVOPT_MATH_BFLOAT16) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (c.padding_height < 0 || c.padding_width < 0 || c.input.channels < 1 || c.input.channels % c.groups ||
      c.out_channels % c.groups)
    return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (c.padding_height >= 1 << 15 || c.padding_width >= 1 << 15 || c.input.channels >= largest ||
      c.kernel_height * c.kernel_width * c.input.channels >= largest || c.input.height >= 1 << 24 ||
      c.input.width >= 1 << 24)
    return PYCONVOPT_CUDA_TOO_LARGE;
  const PyconvoptMap output = output_of(c);
  if (output.height < 1 || output.width < 1) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  return rows(c.input) >= largest || rows(output) >= largest ? PYCONVOPT_CUDA_TOO_LARGE : 0;
}

}  // namespace
}  // namespace pyconvopt::cuda

int pyconvopt_cuda_conv_forward(const PyconvoptConvForward* p, void* stream) {
  using namespace pyconvopt::cuda;
  if (const int error = check_convolution(p->shape)) return error;
  if (p->moments && (p->relu || is_depthwise(p->shape))) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (elements(p->shape.input) == 0) return 0;
  return is_depthwise(p->shape) ? depthwise_forward(*p, stream) : gemm_forward(*p, stream);
}

int64_t pyconvopt_cuda_conv_forward_moments(const PyconvoptConvForward* p) {
  using namespace pyconvopt::cuda;
  return check_convolution(p->shape) || is_depthwise(p->shape) ? 0 : gemm_moments(p->shape);
}

int pyconvopt_cuda_conv_data_gradient(const PyconvoptConvDataGradient* p, void* stream) {
  using namespace pyconvopt::cuda;
  if (const int error = check_convolution(p->shape)) return error;
  if (elements(p->shape.input) == 0) return 0;
  return is_depthwise(p->shape) ? depthwise_data_gradient(*p, stream) : gemm_data_gradient(*p, stream);
}

int64_t pyconvopt_cuda_conv_weight_gradient_workspace(const PyconvoptConvWeightGradient* p) {
  using namespace pyconvopt::cuda;
  if (check_convolution(p->shape)) return 0;
  return is_depthwise(p->shape) ? depthwise_workspace(p->shape) : gemm_workspace(p->shape);
}

int pyconvopt_cuda_conv_weight_gradient(const PyconvoptConvWeightGradient* p, void* stream) {
  using namespace pyconvopt::cuda;
  if (const int error = check_convolution(p->shape)) return error;
  return is_depthwise(p->shape) ? depthwise_weight_gradient(*p, stream) : gemm_weight_gradient(*p, stream);
}
