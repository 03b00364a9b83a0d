// Dropout of elements and of whole channels; forward and backward are the same function.
//
// 2 accesses an element and nothing stored: the mask is drawn in registers (philox.cuh). Of whole
// channels, the few multipliers are drawn by the threads that need them, one Philox block for the one
// (NCHW: mostly the same for all four elements) or four channels that a thread's elements lie in.
#include "channels.cuh"
#include "philox.cuh"

namespace pyconvopt::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(block_threads) drop_elements(const T* input, T* output, Tail tail, DropoutMask mask) {
  const int64_t step = int64_t(gridDim.x) * block_elements;
  for (int64_t base = int64_t(blockIdx.x) * block_elements; base < tail.size; base += step) {
    const int64_t at = base + 4 * threadIdx.x;
    float multipliers[4], x[4];
    mask.four(uint64_t(at), multipliers);  // the whole warp, also beyond the end
    tail.load(input, at, x);
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] *= multipliers[k];
    tail.store(output, at, x);
  }
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    drop_channels(const T* input, T* output, Tail tail, MapIndex index, DropoutMask mask) {
  const int64_t step = int64_t(gridDim.x) * block_elements;
  for (int64_t at = int64_t(blockIdx.x) * block_elements + 4 * threadIdx.x; at < tail.size; at += step) {
    float x[4], multiplier = 0;
    tail.load(input, at, x);
    int64_t before = -1;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t element = index.image(at + k) * index.channels + index.channel(at + k);
      if (element != before) multiplier = mask.at(uint64_t(element));
      before = element;
      x[k] *= multiplier;
    }
    tail.store(output, at, x);
  }
}

}  // namespace
}  // namespace pyconvopt::cuda

int pyconvopt_cuda_dropout(const PyconvoptDropout* p, void* stream) {
  using namespace pyconvopt::cuda;
  if (const int error = check(p->shape)) return error;
  if (!valid(p->key)) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  const int64_t size = elements(p->shape);
  if (size == 0) return 0;
  return with_type(p->shape.type, [&]<class T>() {
    const T* input = static_cast<const T*>(p->input);
    T* output = static_cast<T*>(p->output);
    const Tail tail{size, aligned(input) && aligned(output)};
    const DropoutMask mask(p->key);
    if (!p->whole_channels)
      return launch(drop_elements<T>, elementwise_grid(size), block_threads, stream, input, output, tail, mask);
    return launch(drop_channels<T>, elementwise_grid(size), block_threads, stream, input, output, tail,
                  MapIndex(p->shape), mask);
  });
}
