// What an entry's code means, and what the library was built for.
#include "device.cuh"

const char* pyconvopt_cuda_error(int code) {
  switch (code) {
    case PYCONVOPT_CUDA_BAD_ARGUMENT: return "a shape, option or pointer is out of its range";
    case PYCONVOPT_CUDA_BAD_TYPE: return "maps must be float32, float16 or bfloat16";
    case PYCONVOPT_CUDA_TOO_LARGE: return "batch, channels and pixels of an image must each be below 2^31";
    default: return cudaGetErrorString(static_cast<cudaError_t>(code));
  }
}

int pyconvopt_cuda_version() { return PYCONVOPT_CUDA_VERSION; }

int pyconvopt_cuda_runtime() { return CUDART_VERSION; }

int pyconvopt_cuda_oldest_capability() {
  constexpr int architectures[] = {__CUDA_ARCH_LIST__};  // ascending: 800 is 8.0
  return architectures[0] / 10;
}
