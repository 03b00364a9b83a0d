// Stands in for CUDA's header of this name when the kernels are compiled for the emulation: keywords,
// indices, barriers, shuffles, votes, atomics and the launch, as the programming guide describes them.
#pragma once
#include <cmath>
#include <tuple>
#include <utility>

#include "emulation.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define CUDART_VERSION 13000
#define __CUDA_ARCH_LIST__ 800, 900
// Blocks run one after another, so one copy serves them all; the recorder knows it by its section.
#define __shared__ static

// Coordinates that ask for their value when they are read, so that no memory is behind them.
template <auto get, unsigned decltype(get())::* axis>
struct EmulatedCoordinate {
  operator unsigned() const { return get().*axis; }
};
template <class Triple, Triple (*get)()>
struct EmulatedTriple {
  [[no_unique_address]] EmulatedCoordinate<get, &Triple::x> x;
  [[no_unique_address]] EmulatedCoordinate<get, &Triple::y> y;
  [[no_unique_address]] EmulatedCoordinate<get, &Triple::z> z;
};
inline constexpr EmulatedTriple<uint3, emulation::thread_index> threadIdx;
inline constexpr EmulatedTriple<uint3, emulation::block_index> blockIdx;
inline constexpr EmulatedTriple<dim3, emulation::block_size> blockDim;
inline constexpr EmulatedTriple<dim3, emulation::grid_size> gridDim;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
  }
  return "unrecognized error code";
}

using cudaStream_t = struct CUstream_st*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, {Parameters(std::forward<Arguments>(arguments))...}};
  const auto run = [](const void* p) {
    const Call& c = *static_cast<const Call*>(p);
    std::apply(c.kernel, c.arguments);
  };
  if (config->dynamicSmemBytes) return cudaErrorInvalidConfiguration;  // the emulation has static shared memory alone
  return cudaError_t(emulation::launch(config->gridDim, config->blockDim, {run, &call, sizeof call}));
}

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::warp_barrier(mask); }

template <class T>
T emulated_exchange(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulation::exchange(mask, bits, source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulated_exchange(mask, value, unsigned(source) % 32);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return emulated_exchange(mask, value, emulation::lane() ^ unsigned(lanes));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes) {  // beyond the warp: the lane's own value
  const unsigned source = emulation::lane() + lanes;
  return emulated_exchange(mask, value, source < 32 ? source : emulation::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return emulation::vote(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return emulation::vote(mask, predicate != 0) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return emulation::vote(mask, predicate == 0) == 0; }

template <class T>
__attribute__((noinline, no_sanitize("thread"))) T atomicAdd(T* at, T value) {
  emulation::atomic_access(at, sizeof(T));
  const T before = *at;
  *at = before + value;
  return before;
}
