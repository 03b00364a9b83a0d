// Batch normalisation forward, with the residual, ReLU and dropout, in two passes over the input.
//
// Statistics (Welford 1962; merged as Chan, Golub and LeVeque 1983): every thread keeps mean and Σ(x − mean)²
// of its rows, so that nothing cancels when the mean is large against the deviation; blocks merge their
// threads' in float32, the second stage the chunks in double, their mean first. A convolution may have told
// mean and Σ(x − mean)² of chunks of the map it made (epilogue.cuh): then the first stage is done.
// Then output = drop(relu(affine + residual)) element by element: 3 accesses an element in training, 2 in
// evaluation and behind such a convolution, one more with a residual.
#include "affine.cuh"
#include "philox.cuh"
#include "reduce.cuh"

namespace pyconvopt::cuda {
namespace {

// Means, Σ(x − mean)² and the number of rows of `vector` channels.
template <int vector>
struct Moments {
  static constexpr int parts = 2 * vector + 1;
  float state[parts] = {};

  __device__ __forceinline__ void add(const float (&x)[vector]) {
    const float count = state[parts - 1] += 1, share = 1 / count;
#pragma unroll
    for (int k = 0; k < vector; ++k) {
      const float difference = x[k] - state[k];
      state[k] += difference * share;
      state[vector + k] += difference * (x[k] - state[k]);
    }
  }
  static __device__ __forceinline__ void merge(float (&a)[parts], const float (&b)[parts]) {
    const float count = a[parts - 1] + b[parts - 1];
    if (b[parts - 1] == 0) return;
    const float share = b[parts - 1] / count;
#pragma unroll
    for (int k = 0; k < vector; ++k) {
      const float difference = b[k] - a[k];
      a[vector + k] += b[vector + k] + difference * difference * a[parts - 1] * share;
      a[k] += difference * share;
    }
    a[parts - 1] = count;
  }
};

// Partial results: a line of means and a line of Σ(x − mean)² of every chunk.
template <class T, int vector>
__global__ void __launch_bounds__(block_threads)
    moments_rows(const T* input, Chunks chunks, int64_t channels, float* means, float* squares) {
  const int64_t channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * vector;
  Moments<vector> moments;
  visit_rows<vector>(chunks, channels, channel, [&](int64_t at) {
    float x[vector];
    load(input + at, x);
    moments.add(x);
  });
  merge_block(moments.state, Moments<vector>::merge);
  if (threadIdx.y > 0 || channel >= channels) return;
#pragma unroll
  for (int k = 0; k < vector; ++k) {
    means[partial_at(channel + k, channels)] = moments.state[k];
    squares[partial_at(channel + k, channels)] = moments.state[vector + k];
  }
}

template <class T, int vector>
__global__ void __launch_bounds__(block_threads)
    moments_planes(const T* input, Chunks chunks, MapIndex index, float* means, float* squares) {
  Moments<vector> moments;
  visit_planes<vector>(chunks, index, [&](int64_t at) {
    float x[vector];
    load(input + at, x);
    moments.add(x);
  });
  // The thread's lanes first: all have seen the same number of rows.
  float state[3] = {moments.state[0], moments.state[vector], moments.state[2 * vector]};
#pragma unroll
  for (int k = 1; k < vector; ++k) {
    const float lane[3] = {moments.state[k], moments.state[vector + k], moments.state[2 * vector]};
    Moments<1>::merge(state, lane);
  }
  merge_block(state, Moments<1>::merge);
  if (threadIdx.y > 0) return;
  means[partial_at(blockIdx.x, index.channels)] = state[0];
  squares[partial_at(blockIdx.x, index.channels)] = state[1];
}

struct Statistics {
  float *running_mean, *running_variance, *saved_mean, *saved_invstd;
  double momentum, epsilon;
};

__global__ void __launch_bounds__(finish_channels* finish_lanes)
    finish_moments(const float* means, const float* squares, Chunks chunks, int64_t channels, Statistics to) {
  __shared__ double shared[2][finish_lanes][finish_channels];
  const int64_t channel = int64_t(blockIdx.x) * finish_channels + threadIdx.x, at = least(channel, channels - 1);
  const double whole = double(chunks.each), rest = double(chunks.rows - (chunks.count - 1) * chunks.each);
  const auto rows_of = [&](int64_t chunk) { return chunk + 1 < chunks.count ? whole : rest; };
  const double count = double(chunks.rows);
  const double sum =
      sum_over_chunks(chunks, shared[0], [&](int64_t chunk) { return rows_of(chunk) * means[chunk * channels + at]; });
  const double mean = sum / count;
  const double square = sum_over_chunks(chunks, shared[1], [&](int64_t chunk) {
    const double difference = means[chunk * channels + at] - mean;
    return squares[chunk * channels + at] + rows_of(chunk) * difference * difference;
  });
  if (threadIdx.y > 0 || channel >= channels) return;
  to.saved_mean[channel] = float(mean);
  to.saved_invstd[channel] = float(1 / sqrt(square / count + to.epsilon));
  const auto move = [&](float& running, double batch) {
    running = float(to.momentum * batch + (1 - to.momentum) * running);
  };
  if (to.running_mean) move(to.running_mean[channel], mean);
  if (to.running_variance) move(to.running_variance[channel], square / (count - 1));
}

__global__ void __launch_bounds__(block_threads) running_statistics(int64_t channels, Statistics p) {
  const int64_t channel = int64_t(blockIdx.x) * block_threads + threadIdx.x;
  if (channel >= channels) return;
  p.saved_mean[channel] = p.running_mean ? p.running_mean[channel] : 0.0f;
  const double variance = p.running_variance ? p.running_variance[channel] : 1.0f;
  p.saved_invstd[channel] = float(1 / sqrt(variance + p.epsilon));
}

template <class T>
struct Normalization {
  const T *input, *residual;
  T* output;
  Affine affine;
  MapIndex index;
  Tail tail;
  bool relu, drop;
  DropoutMask mask;
};

template <class T, Neighbours neighbours>
__global__ void __launch_bounds__(block_threads) normalize(Normalization<T> p) {
  const int64_t step = int64_t(gridDim.x) * block_elements;
  int64_t at = int64_t(blockIdx.x) * block_elements + 4 * threadIdx.x;
  ChannelCursor cursor(p.index, at, step);
  // The whole block stays to the end: its warps draw the dropout's mask together.
  for (int64_t base = int64_t(blockIdx.x) * block_elements; base < p.tail.size; base += step, at += step) {
    float y[4];
    p.tail.load(p.input, at, y);
    p.affine.template apply<neighbours>(cursor, y);
    if (p.residual) {
      float r[4];
      p.tail.load(p.residual, at, r);
#pragma unroll
      for (int k = 0; k < 4; ++k) y[k] += r[k];
    }
    if (p.relu) {
#pragma unroll
      for (int k = 0; k < 4; ++k) y[k] = y[k] < 0 ? 0.0f : y[k];  // NaN stays
    }
    if (p.drop) {
      float multipliers[4];
      p.mask.four(uint64_t(at), multipliers);
#pragma unroll
      for (int k = 0; k < 4; ++k) y[k] *= multipliers[k];
    }
    p.tail.store(p.output, at, y);
    cursor.advance();
  }
}

int finish(const float* means, const Chunks& chunks, int64_t channels, const Statistics& statistics, void* stream) {
  return launch(finish_moments, finish_grid(channels), finish_block(), stream, means, means + chunks.count * channels,
                chunks, channels, statistics);
}

template <class T>
int batch_statistics(const PyconvoptBatchNormForward& p, const Statistics& statistics, void* stream) {
  const PyconvoptMap& s = p.shape;
  const T* input = static_cast<const T*>(p.input);
  if (p.moments) return finish(p.moments, Chunks(s, p.moment_rows), s.channels, statistics, stream);
  const Chunks chunks(s);
  float *means = static_cast<float*>(p.workspace), *squares = means + chunks.count * s.channels;
  const bool fours = aligned(input) && neighbours_of(s) != Neighbours::any;
  int error;
  if (s.layout == PYCONVOPT_NHWC) {
    const int vector = fours ? 4 : 1;
    error = launch(fours ? moments_rows<T, 4> : moments_rows<T, 1>, rows_grid(chunks, s.channels, vector),
                   rows_block(s.channels, vector), stream, input, chunks, s.channels, means, squares);
  } else {
    error =
        launch(fours ? moments_planes<T, 4> : moments_planes<T, 1>, dim3(unsigned(s.channels), unsigned(chunks.count)),
               dim3(1, block_threads), stream, input, chunks, MapIndex(s), means, squares);
  }
  if (error) return error;
  return finish(means, chunks, s.channels, statistics, stream);
}

template <class T>
int forward(const PyconvoptBatchNormForward& p, void* stream) {
  const PyconvoptMap& s = p.shape;
  const Statistics statistics{p.running_mean, p.running_variance, p.saved_mean, p.saved_invstd, p.momentum, p.epsilon};
  if (p.training && rows(s) > 0) {
    if (const int error = batch_statistics<T>(p, statistics, stream)) return error;
  } else if (const int error = launch(running_statistics, dim3(unsigned(ceil_divide(s.channels, block_threads))),
                                      block_threads, stream, s.channels, statistics)) {
    return error;
  }
  const int64_t size = elements(s);
  if (size == 0) return 0;
  const T *input = static_cast<const T*>(p.input), *residual = static_cast<const T*>(p.residual);
  T* output = static_cast<T*>(p.output);
  const Normalization<T> problem{input,
                                 residual,
                                 output,
                                 {p.saved_mean, p.saved_invstd, p.weight, p.bias},
                                 MapIndex(s),
                                 {size, aligned(input) && aligned(residual) && aligned(output)},
                                 p.relu != 0,
                                 p.dropout.probability > 0,
                                 DropoutMask(p.dropout)};
  const bool lines = aligned(p.saved_mean) && aligned(p.saved_invstd) && aligned(p.weight) && aligned(p.bias);
  return with_neighbours(s, lines, [&]<Neighbours neighbours>() {
    return launch(normalize<T, neighbours>, elementwise_grid(size), block_threads, stream, problem);
  });
}

}  // namespace
}  // namespace pyconvopt::cuda

int64_t pyconvopt_cuda_batch_norm_forward_workspace(const PyconvoptBatchNormForward* p) {
  return p->moments ? 0 : pyconvopt::cuda::Chunks(p->shape).count * p->shape.channels * 2 * int64_t(sizeof(float));
}

int pyconvopt_cuda_batch_norm_forward(const PyconvoptBatchNormForward* p, void* stream) {
  using namespace pyconvopt::cuda;
  if (const int error = check(p->shape)) return error;
  if (!valid(p->dropout) || !p->saved_mean || !p->saved_invstd) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (p->moments && (!p->training || p->moment_rows < 1)) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (p->shape.channels == 0) return 0;
  return with_type(p->shape.type, [&]<class T>() { return forward<T>(*p, stream); });
}
