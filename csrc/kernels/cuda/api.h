/* The boundary of the CUDA plug-in: plain C, so that whoever loads it needs neither torch nor CUDA.
 *
 * Every entry takes one problem structure and a cudaStream_t as `void*`, only launches kernels, and
 * neither waits, allocates nor frees: it may be captured in a CUDA graph. Pointers are device memory
 * except where "host" is said. Scratch memory is the caller's, `workspace`, of as many bytes as the
 * entry's `_workspace` twin says. A grid depends on the shape alone, and no sum on the order in which
 * blocks run: the same problem, equally aligned, gives the same bits every time.
 *
 * The meaning of each problem is that of the CPU structure of the same name (norm.hpp, dropout.hpp ...).
 */
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PYCONVOPT_CUDA_API __attribute__((visibility("default")))

/* 0 is success, a positive code is a cudaError_t, a negative one is of this list. */
enum { PYCONVOPT_CUDA_BAD_ARGUMENT = -1, PYCONVOPT_CUDA_BAD_TYPE = -2, PYCONVOPT_CUDA_TOO_LARGE = -3 };
PYCONVOPT_CUDA_API const char* pyconvopt_cuda_error(int code);
/* The version of this boundary; a plug-in of another version is not to be used. */
#define PYCONVOPT_CUDA_VERSION 3
PYCONVOPT_CUDA_API int pyconvopt_cuda_version(void);
/* What a machine must have: a driver of this CUDA version (1000 · major + 10 · minor) or of a later one of the same
 * or a later major; a GPU of this compute capability (10 · major + minor) or a later one. */
PYCONVOPT_CUDA_API int pyconvopt_cuda_runtime(void);
PYCONVOPT_CUDA_API int pyconvopt_cuda_oldest_capability(void);

/* Types of maps; sums are always kept in float32 or wider, parameters and statistics are float32. */
enum { PYCONVOPT_FLOAT32 = 0, PYCONVOPT_FLOAT16 = 1, PYCONVOPT_BFLOAT16 = 2 };
enum { PYCONVOPT_NHWC = 0, PYCONVOPT_NCHW = 1 };

/* A dense map. */
struct PyconvoptMap {
  int64_t batch, channels, height, width;
  int32_t layout, type;
};

/* See dropout.hpp: the same key gives the same mask on the CPU. `element` counts in memory order. */
struct PyconvoptDropoutKey {
  double probability;
  uint64_t seed, offset;
};

/* --- batch normalisation + residual + ReLU + dropout --- */

struct PyconvoptBatchNormForward {
  struct PyconvoptMap shape;
  const void* input;
  const float* weight;  /* channels, or null for ones */
  const float* bias;    /* channels, or null for zeros */
  const void* residual; /* of the input's shape, or null */
  int32_t training, relu;
  float* running_mean; /* null: none to update, or 0 and 1 in evaluation */
  float* running_variance;
  double momentum, epsilon;
  struct PyconvoptDropoutKey dropout;
  void* output;
  float* saved_mean; /* channels */
  float* saved_invstd;
  void* workspace;      /* training without moments only */
  const float* moments; /* of the input, from the convolution that made it, or null; training only */
  int64_t moment_rows;  /* that a chunk of them has, PYCONVOPT_MOMENT_ROWS from a convolution here */
};
PYCONVOPT_CUDA_API int64_t pyconvopt_cuda_batch_norm_forward_workspace(const struct PyconvoptBatchNormForward*);
PYCONVOPT_CUDA_API int pyconvopt_cuda_batch_norm_forward(const struct PyconvoptBatchNormForward*, void* stream);

/* Where ReLU stopped the gradient is read from `output`; where that is null it is computed again from
 * input and bias (not possible behind a residual), and the dropout's mask is drawn again. */
struct PyconvoptBatchNormBackward {
  struct PyconvoptMap shape;
  const void* output_gradient;
  const void* input;
  const void* output; /* or null */
  const float* weight;
  const float* bias;
  const float* saved_mean;
  const float* saved_invstd;
  int32_t training, relu;
  struct PyconvoptDropoutKey dropout;
  void* input_gradient; /* each gradient may be null */
  void* residual_gradient;
  float* weight_gradient;
  float* bias_gradient;
  void* workspace;
};
PYCONVOPT_CUDA_API int64_t pyconvopt_cuda_batch_norm_backward_workspace(const struct PyconvoptBatchNormBackward*);
PYCONVOPT_CUDA_API int pyconvopt_cuda_batch_norm_backward(const struct PyconvoptBatchNormBackward*, void* stream);

/* --- dropout --- */

/* Forward and backward alike. `whole_channels`: an element is image · channels + channel. */
struct PyconvoptDropout {
  struct PyconvoptMap shape;
  const void* input;
  struct PyconvoptDropoutKey key;
  int32_t whole_channels;
  void* output;
};
PYCONVOPT_CUDA_API int pyconvopt_cuda_dropout(const struct PyconvoptDropout*, void* stream);

/* --- 2×2 max-pooling with stride 2 --- */

struct PyconvoptMaxPoolForward {
  struct PyconvoptMap shape; /* of the input */
  const void* input;
  void* output;
  uint8_t* argmax;
};
PYCONVOPT_CUDA_API int pyconvopt_cuda_max_pool_forward(const struct PyconvoptMaxPoolForward*, void* stream);

struct PyconvoptMaxPoolBackward {
  struct PyconvoptMap shape; /* of the input */
  const void* output_gradient;
  const uint8_t* argmax;
  void* input_gradient; /* every element is written */
};
PYCONVOPT_CUDA_API int pyconvopt_cuda_max_pool_backward(const struct PyconvoptMaxPoolBackward*, void* stream);

/* --- convolution --- */

/* What dense products are computed in; sums are float32. With TF32 both factors are rounded to 11 bits of mantissa,
 * with BFLOAT16 to 8, and multiplied by tensor cores: an element is within 2^-10, 2^-7 of the sum of the absolute
 * values of its terms. Depthwise convolution is float32 always. */
enum { PYCONVOPT_MATH_FLOAT32 = 0, PYCONVOPT_MATH_TF32 = 1, PYCONVOPT_MATH_BFLOAT16 = 2 };

/* The weights are float32, (out_channels, channels / groups, kernel_height, kernel_width), by their strides in
 * elements; `input` tells the layout and the type of both maps. Depthwise where groups = channels = out_channels. */
struct PyconvoptConv {
  struct PyconvoptMap input;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups;
  int64_t weight_out_channel, weight_in_channel, weight_row, weight_column;
  int32_t math;
};

/* What batch norm needs of a map in training: of chunks of so many rows (the pixels of all images, in order; the last
 * chunk may have fewer) and of every channel mean and sum of (x - mean)^2. Two arrays one behind the other, of the
 * means and of the sums, each (chunks, channels). */
#define PYCONVOPT_MOMENT_ROWS 64

/* output = relu(convolution(input, weight) + bias), bias and ReLU optional. `moments`: of the output as it is stored,
 * in as many floats as the `_moments` twin says; without ReLU only, and not of a depthwise convolution (the twin says
 * 0). */
struct PyconvoptConvForward {
  struct PyconvoptConv shape;
  const void* input;
  const float* weight;
  const float* bias; /* out_channels, or null */
  int32_t relu;
  void* output;
  float* moments; /* or null */
};
PYCONVOPT_CUDA_API int64_t pyconvopt_cuda_conv_forward_moments(const struct PyconvoptConvForward*);
PYCONVOPT_CUDA_API int pyconvopt_cuda_conv_forward(const struct PyconvoptConvForward*, void* stream);

struct PyconvoptConvDataGradient {
  struct PyconvoptConv shape;
  const void* output_gradient;
  const float* weight;
  void* input_gradient;
};
PYCONVOPT_CUDA_API int pyconvopt_cuda_conv_data_gradient(const struct PyconvoptConvDataGradient*, void* stream);

struct PyconvoptConvWeightGradient {
  struct PyconvoptConv shape;
  const void* input;
  const void* output_gradient;
  float* weight_gradient;
  void* workspace;
};
PYCONVOPT_CUDA_API int64_t pyconvopt_cuda_conv_weight_gradient_workspace(const struct PyconvoptConvWeightGradient*);
PYCONVOPT_CUDA_API int pyconvopt_cuda_conv_weight_gradient(const struct PyconvoptConvWeightGradient*, void* stream);

/* --- optimiser steps, float32 --- */

struct PyconvoptSgdTensor {
  int64_t size;
  float* parameter;
  const float* gradient;
  float* momentum;
  int32_t first;
};
struct PyconvoptSgdStep {
  const struct PyconvoptSgdTensor* tensors; /* host */
  int64_t count;
  double lr, momentum, dampening, weight_decay;
  int32_t nesterov, maximize;
};
PYCONVOPT_CUDA_API int pyconvopt_cuda_sgd(const struct PyconvoptSgdStep*, void* stream);

struct PyconvoptAdamTensor {
  int64_t size;
  float* parameter;
  const float* gradient;
  float* mean;
  float* variance;
  double step; /* from 1 */
};
struct PyconvoptAdamStep {
  const struct PyconvoptAdamTensor* tensors; /* host */
  int64_t count;
  double lr, beta1, beta2, epsilon, weight_decay;
  int32_t decoupled, maximize;
};
PYCONVOPT_CUDA_API int pyconvopt_cuda_adam(const struct PyconvoptAdamStep*, void* stream);

#ifdef __cplusplus
}
#endif
