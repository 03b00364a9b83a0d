// Sums over the rows of each channel, in two stages and always in the same order.
//
// The rows are cut into chunks whose number depends on the shape alone. In the first stage one block sums
// one chunk of a channel (NCHW) or of up to 128 neighbouring channels (NHWC) and writes its partial result;
// in the second a small kernel merges the chunks of every channel in double. No atomics: no bit depends on
// which block comes first.
//
// NHWC: threads lie along the channels, so that a warp reads neighbours, and `lanes_y` rows at a time.
// NCHW: the threads of a block lie along the pixels of one channel, from image to image.
#pragma once
#include "channels.cuh"

namespace pyconvopt::cuda {

struct Chunks {
  int64_t count, each, rows;  // `each` is a multiple of 4 where blocks of the first stage visit the chunks

  explicit Chunks(const PyconvoptMap& s) : rows(cuda::rows(s)) {
    const int64_t columns = s.layout == PYCONVOPT_NHWC ? ceil_divide(s.channels, 128) : s.channels;
    const int64_t rows_enough = s.layout == PYCONVOPT_NHWC ? 64 : 2048;
    const int64_t wanted = most(1, least(ceil_divide(rows, rows_enough), ceil_divide(1024, most(1, columns))));
    each = most(4, ceil_divide(ceil_divide(rows, wanted), 4) * 4);
    count = ceil_divide(rows, each);
  }
  Chunks(const PyconvoptMap& s, int64_t each)
      : count(ceil_divide(cuda::rows(s), each)), each(each), rows(cuda::rows(s)) {}
  __device__ int64_t begin(int64_t chunk) const { return chunk * each; }
  __device__ int64_t end(int64_t chunk) const { return least(rows, (chunk + 1) * each); }
};

// Threads of a block for NHWC: x along groups of `vector` channels, y along rows.
inline dim3 rows_block(int64_t channels, int vector) {
  unsigned x = 1;
  while (x < warp_size && x * vector < channels) x *= 2;
  return dim3(x, block_threads / x);
}
inline dim3 rows_grid(const Chunks& chunks, int64_t channels, int vector) {
  return dim3(unsigned(ceil_divide(channels, int64_t(vector) * rows_block(channels, vector).x)),
              unsigned(chunks.count));
}

// Merges the states of the threads with the same x; the result is that of y = 0. All threads call it, once a
// kernel: every thread writes its place in shared memory once, so one barrier a step is enough.
template <int parts, class Merge>
__device__ __forceinline__ void merge_block(float (&state)[parts], Merge merge) {
  __shared__ float shared[parts][block_threads];
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  for (int half = int(blockDim.y) / 2; half > 0; half /= 2) {
    const int y = int(threadIdx.y);
    if (y >= half && y < 2 * half) {
#pragma unroll
      for (int i = 0; i < parts; ++i) shared[i][thread] = state[i];
    }
    __syncthreads();
    if (y < half) {
      float other[parts];
#pragma unroll
      for (int i = 0; i < parts; ++i) other[i] = shared[i][thread + half * int(blockDim.x)];
      merge(state, other);
    }
  }
}

// visit(element) for the thread's share of a chunk; `vector` neighbours belong to the element.
template <int vector, class Visit>
__device__ __forceinline__ void visit_rows(const Chunks& chunks, int64_t channels, int64_t channel, Visit visit) {
  if (channel >= channels) return;
  const int64_t end = chunks.end(blockIdx.y);
  for (int64_t row = chunks.begin(blockIdx.y) + threadIdx.y; row < end; row += blockDim.y)
    visit(row * channels + channel);
}
template <int vector, class Visit>
__device__ __forceinline__ void visit_planes(const Chunks& chunks, const MapIndex& index, Visit visit) {
  const int64_t begin = chunks.begin(blockIdx.y) + int64_t(vector) * threadIdx.y, end = chunks.end(blockIdx.y);
  int64_t image = begin / index.inner, position = begin % index.inner;
  const int64_t step = vector * block_threads;
  const int64_t step_image = step / index.inner, step_position = step % index.inner;
  for (int64_t row = begin; row < end; row += step) {
    visit(image * index.image_size + blockIdx.x * index.inner + position);
    image += step_image;
    position += step_position;
    if (position >= index.inner) position -= index.inner, ++image;
  }
}

// Where a block of the first stage puts its result for `channel`.
__device__ __forceinline__ int64_t partial_at(int64_t channel, int64_t channels) {
  return int64_t(blockIdx.y) * channels + channel;
}

// The second stage: 8 channels a block, which is a sector of the first's results, 32 threads a channel.
inline constexpr int finish_channels = 8, finish_lanes = 32;
inline dim3 finish_grid(int64_t channels) { return dim3(unsigned(ceil_divide(channels, finish_channels))); }
inline dim3 finish_block() { return dim3(finish_channels, finish_lanes); }

// Σ term(chunk) for all threads of a channel. The shared memory serves one sum.
template <class Term>
__device__ __forceinline__ double sum_over_chunks(const Chunks& chunks, double (&shared)[finish_lanes][finish_channels],
                                                  Term term) {
  double sum = 0;
  for (int64_t chunk = threadIdx.y; chunk < chunks.count; chunk += finish_lanes) sum += term(chunk);
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = 0;
  for (int y = 0; y < finish_lanes; ++y) sum += shared[y][threadIdx.x];
  return sum;
}

}  // namespace pyconvopt::cuda
