// The CUDA plug-in, libpyconvopt_cuda.so, which lies beside this module and is loaded at the first CUDA tensor.
#pragma once
#include <string>

#include "cuda/api.h"

namespace pyconvopt::binding {

// Every entry of api.h; the library's members are their addresses.
#define PYCONVOPT_CUDA_ENTRIES(each)                                                                             \
  each(error) each(version) each(runtime) each(oldest_capability) each(batch_norm_forward_workspace)             \
      each(batch_norm_forward) each(batch_norm_backward_workspace) each(batch_norm_backward) each(dropout)       \
          each(max_pool_forward) each(max_pool_backward) each(conv_forward_moments) each(conv_forward)           \
              each(conv_data_gradient) each(conv_weight_gradient_workspace) each(conv_weight_gradient) each(sgd) \
                  each(adam)

struct CudaLibrary {
#define PYCONVOPT_CUDA_MEMBER(name) decltype(&pyconvopt_cuda_##name) name = nullptr;
  PYCONVOPT_CUDA_ENTRIES(PYCONVOPT_CUDA_MEMBER)
#undef PYCONVOPT_CUDA_MEMBER
};

// Throws std::runtime_error with what is wrong and the remedy if the plug-in is missing or cannot run on this GPU.
const CudaLibrary& cuda_library(int device);
// What dense convolutions are computed in, a PYCONVOPT_MATH_... of api.h.
int32_t cuda_math();
void set_cuda_math(int32_t math);

// That error's text, or nothing.
std::string cuda_problem(int device);

}  // namespace pyconvopt::binding
