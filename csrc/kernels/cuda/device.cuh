// What all kernels share: launching, element types, loads of four elements, sums of a block.
//
// Kernels are launched by cudaLaunchKernelEx rather than by <<<>>>: the sources are then plain C++ but
// for the keywords, and the tests compile and run these very files without a GPU (tests/cuda_emulation).
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "api.h"

namespace pyconvopt::cuda {

inline constexpr int warp_size = 32;
inline constexpr int block_threads = 256;
inline constexpr unsigned all_lanes = 0xffffffffu;

// --- launching -----------------------------------------------------------------------------------

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream, Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = static_cast<cudaStream_t>(stream);
  return int(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

__host__ __device__ constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
__host__ __device__ constexpr int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }
__host__ __device__ constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// use.template operator()<T>() for the type of the maps.
template <class Use>
int with_type(int32_t type, Use use) {
  switch (type) {
    case PYCONVOPT_FLOAT32: return use.template operator()<float>();
    case PYCONVOPT_FLOAT16: return use.template operator()<__half>();
    case PYCONVOPT_BFLOAT16: return use.template operator()<__nv_bfloat16>();
    default: return PYCONVOPT_CUDA_BAD_TYPE;
  }
}

// 0, or the error of a shape that no kernel takes. A thread counts in int64_t, channels and pixels in int.
inline int check(const PyconvoptMap& s) {
  constexpr int64_t largest = int64_t(1) << 31;
  if (s.batch < 0 || s.channels < 0 || s.height < 0 || s.width < 0) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (s.layout != PYCONVOPT_NHWC && s.layout != PYCONVOPT_NCHW) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (s.type < PYCONVOPT_FLOAT32 || s.type > PYCONVOPT_BFLOAT16) return PYCONVOPT_CUDA_BAD_TYPE;
  if (s.batch >= largest || s.channels >= largest || s.height >= largest || s.width >= largest ||
      (s.height && s.width >= largest / s.height))
    return PYCONVOPT_CUDA_TOO_LARGE;
  return 0;
}
inline int64_t pixels(const PyconvoptMap& s) { return s.height * s.width; }
inline int64_t rows(const PyconvoptMap& s) { return s.batch * pixels(s); }
inline int64_t elements(const PyconvoptMap& s) { return rows(s) * s.channels; }

// --- element types -------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// --- loads and stores of neighbours -----------------------------------------------------------------

// Copied as one access of 4 · sizeof(T) bytes.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T value[4];
};

template <class T, int count>
__device__ __forceinline__ void load(const T* from, float (&to)[count]) {
  static_assert(count == 1 || count == 4);
  if constexpr (count == 1) {
    to[0] = to_float(from[0]);
  } else {
    const Four<T> four = *reinterpret_cast<const Four<T>*>(from);
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k] = to_float(four.value[k]);
  }
}

template <class T>
bool aligned(const T* p) {  // null is
  return reinterpret_cast<uintptr_t>(p) % (4 * sizeof(T)) == 0;
}

// Four neighbours of a tensor of `size` elements; those beyond its end are 0 and are not stored.
struct Tail {
  int64_t size;
  bool vectors;  // all tensors are aligned

  template <class T>
  __device__ __forceinline__ void load(const T* from, int64_t at, float (&to)[4]) const {
    if (vectors && at + 4 <= size) return cuda::load<T, 4>(from + at, to);
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k] = at + k < size ? to_float(from[at + k]) : 0.0f;
  }
  template <class T>
  __device__ __forceinline__ void store(T* to, int64_t at, const float (&from)[4]) const {
    if (vectors && at + 4 <= size) {
      Four<T> four;
#pragma unroll
      for (int k = 0; k < 4; ++k) four.value[k] = from_float<T>(from[k]);
      *reinterpret_cast<Four<T>*>(to + at) = four;
      return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (at + k < size) to[at + k] = from_float<T>(from[k]);
  }
};

// Elementwise kernels: a block takes 1024 neighbours at a time, every thread four of them.
inline constexpr int64_t block_elements = 4 * block_threads;
inline dim3 elementwise_grid(int64_t size) {
  return dim3(unsigned(most(1, least(ceil_divide(size, 4 * block_elements), 1 << 16))));
}

}  // namespace pyconvopt::cuda
