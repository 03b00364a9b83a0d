// Kernels that are wrong in one way each, and right ones for what the emulation promises.
#include <cuda_runtime.h>

#include <cstdint>

namespace {

__global__ void neighbour_sum(const float* input, float* output, int barrier) {
  __shared__ float values[64];
  values[threadIdx.x] = input[threadIdx.x];
  if (barrier == 1) __syncthreads();
  if (barrier == 2) __syncwarp();
  output[threadIdx.x] = values[threadIdx.x] + values[(threadIdx.x + 1) % 64];
}

__global__ void overwrite_what_is_read(float* output) {
  __shared__ float values[64];
  values[threadIdx.x] = float(threadIdx.x);
  __syncthreads();
  output[threadIdx.x] = values[63 - threadIdx.x];
  values[threadIdx.x] = 0;
}

__global__ void divergent_barrier(float* output) {
  if (threadIdx.x < 40) return;
  __syncthreads();
  output[threadIdx.x] = 1;
}

__global__ void missing_lane(float* output) {
  if (threadIdx.x == 5) return;
  output[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

__global__ void lane_outside_mask(float* output) {
  if (threadIdx.x < 16) output[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}

__global__ void unwritten_shared(float* output) {
  __shared__ float values[64];
  if (threadIdx.x) values[threadIdx.x] = 1;
  __syncthreads();
  output[threadIdx.x] = values[threadIdx.x];
}

__global__ void beyond_the_end(const float* input, float* output) { output[threadIdx.x] = input[threadIdx.x + 1]; }
__global__ void write_to_input(float* input) { input[threadIdx.x] = 0; }
__global__ void misaligned(const float* input, float* output) {
  output[0] = float(*reinterpret_cast<const double*>(input + 1));
}
__global__ void two_blocks_one_place(float* output) { output[threadIdx.x] = float(threadIdx.x); }

__global__ void count(float* output) { atomicAdd(output, 1.0f); }
__global__ void count_and_read(float* output) {
  atomicAdd(output, 1.0f);
  if (threadIdx.x == 0) output[1] = output[0];
}

__global__ void shuffles_and_votes(float* output) {
  const unsigned lane = threadIdx.x % 32, all = 0xffffffffu;
  const double down = __shfl_down_sync(all, double(lane), 4);
  const unsigned odd = __ballot_sync(all, lane % 2);
  const int any = __any_sync(all, lane == 7) + 2 * __any_sync(all, lane == 40);
  const int every = __all_sync(all, lane < 32) + 2 * __all_sync(all, lane < 31);
  const float first = __shfl_sync(all, float(threadIdx.x), 0);
  output[threadIdx.x] =
      float(down) + 100 * float(odd == 0xaaaaaaaau) + 1000 * float(any) + 10000 * float(every) + 100000 * first;
}

__global__ void strided(const float* input, float* output) {
  __shared__ float columns[64 * 32];
  columns[threadIdx.x * 32] = input[threadIdx.x * 8 % 64];
  output[threadIdx.x] = columns[threadIdx.x * 32];
}

template <class... Arguments>
int run(void (*kernel)(Arguments...), int blocks, Arguments... arguments) {
  const cudaLaunchConfig_t config{dim3(unsigned(blocks)), dim3(64), 0, nullptr};
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int run_kernel(int which, float* input, float* output) {
  const float* constant = input;
  switch (which) {
    case 0: return run(neighbour_sum, 2, constant, output, 0);
    case 1: return run(neighbour_sum, 1, constant, output, 1);
    case 2: return run(neighbour_sum, 1, constant, output, 2);
    case 3: return run(overwrite_what_is_read, 1, output);
    case 4: return run(divergent_barrier, 1, output);
    case 5: return run(missing_lane, 1, output);
    case 6: return run(lane_outside_mask, 1, output);
    case 7: return run(unwritten_shared, 1, output);
    case 8: return run(beyond_the_end, 1, constant, output);
    case 9: return run(write_to_input, 1, input);
    case 10: return run(misaligned, 1, constant, output);
    case 11: return run(two_blocks_one_place, 2, output);
    case 12: return run(count, 2, output);
    case 13: return run(count_and_read, 1, output);
    case 14: return run(shuffles_and_votes, 1, output);
    case 15: return run(strided, 1, constant, output);
    default: return run(count, 0, output);
  }
}
