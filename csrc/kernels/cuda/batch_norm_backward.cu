// Batch normalisation backward, through dropout and ReLU, in two passes.
//
// One reducing pass takes Σg and Σg·(x − mean) of every channel, where g is the gradient behind ReLU and
// dropout; then  dx = p·(g − r) + q·(x − mean)  is affine a channel:
//   p = weight · invstd,   q = −p · invstd² · Σg·(x − mean) / rows,   r = Σg / rows,
// and dx = p·g in evaluation, where the statistics are constants. 5 accesses an element in training; where
// ReLU was is found from x, which is there anyway; behind a residual from the output, 2 more accesses.
#include "affine.cuh"
#include "philox.cuh"
#include "reduce.cuh"

namespace pyconvopt::cuda {
namespace {

template <class T>
struct Gradient {
  const T *gradient, *input, *output;  // output: null if it tells nothing
  Affine affine;
  bool relu, drop;  // still to be applied, because the output does not tell
  DropoutMask mask;

  explicit Gradient(const PyconvoptBatchNormBackward& p)
      : gradient(static_cast<const T*>(p.output_gradient)),
        input(static_cast<const T*>(p.input)),
        output(p.relu ? static_cast<const T*>(p.output) : nullptr),
        affine{p.saved_mean, p.saved_invstd, p.weight, p.bias},
        relu(p.relu && !output),
        drop(p.dropout.probability > 0 && !output),
        mask(p.dropout) {}

  // A positive output was neither stopped by ReLU nor dropped.
  __device__ __forceinline__ float behind_output(float g, float y) const { return y <= 0 ? 0.0f : g * mask.scale; }

  // Of `vector` neighbours of one thread on its own, with their x; they lie in as many channels, or in one.
  template <int vector, int lines>
  __device__ __forceinline__ void at(int64_t element, const AffineRegisters<lines>& registers, float (&g)[vector],
                                     float (&x)[vector]) const {
    load(gradient + element, g);
    load(input + element, x);
    if (output) {
      float y[vector];
      load(output + element, y);
#pragma unroll
      for (int k = 0; k < vector; ++k) g[k] = behind_output(g[k], y[k]);
    }
    if (drop) {
#pragma unroll
      for (int k = 0; k < vector; ++k) g[k] *= mask.at(uint64_t(element + k));
    }
    if (relu) {
#pragma unroll
      for (int k = 0; k < vector; ++k) g[k] = registers.apply(k % lines, x[k]) <= 0 ? 0.0f : g[k];
    }
  }
};

// Σg and Σg·(x − mean) of `vector` channels.
template <int vector>
struct Sums {
  float state[2 * vector] = {};

  __device__ __forceinline__ void add(int k, float g, float centred) {
    state[k] += g;
    state[vector + k] += g * centred;
  }
  static __device__ __forceinline__ void merge(float (&a)[2 * vector], const float (&b)[2 * vector]) {
#pragma unroll
    for (int i = 0; i < 2 * vector; ++i) a[i] += b[i];
  }
};

template <class T, int vector>
__global__ void __launch_bounds__(block_threads, 4)
    sums_rows(Gradient<T> gradient, Chunks chunks, int64_t channels, float* sums, float* products) {
  const int64_t channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * vector;
  const AffineRegisters<vector> registers(gradient.affine, channel < channels ? channel : 0);
  Sums<vector> total;
  visit_rows<vector>(chunks, channels, channel, [&](int64_t at) {
    float g[vector], x[vector];
    gradient.at(at, registers, g, x);
#pragma unroll
    for (int k = 0; k < vector; ++k) total.add(k, g[k], x[k] - registers.mean[k]);
  });
  merge_block(total.state, Sums<vector>::merge);
  if (threadIdx.y > 0 || channel >= channels) return;
#pragma unroll
  for (int k = 0; k < vector; ++k) {
    sums[partial_at(channel + k, channels)] = total.state[k];
    products[partial_at(channel + k, channels)] = total.state[vector + k];
  }
}

template <class T, int vector>
__global__ void __launch_bounds__(block_threads)
    sums_planes(Gradient<T> gradient, Chunks chunks, MapIndex index, float* sums, float* products) {
  const AffineRegisters<1> registers(gradient.affine, blockIdx.x);
  Sums<1> total;
  visit_planes<vector>(chunks, index, [&](int64_t at) {
    float g[vector], x[vector];
    gradient.at(at, registers, g, x);
#pragma unroll
    for (int k = 0; k < vector; ++k) total.add(0, g[k], x[k] - registers.mean[0]);
  });
  merge_block(total.state, Sums<1>::merge);
  if (threadIdx.y > 0) return;
  sums[partial_at(blockIdx.x, index.channels)] = total.state[0];
  products[partial_at(blockIdx.x, index.channels)] = total.state[1];
}

struct Lines {
  float *p, *q, *r;  // channels each
};

__global__ void __launch_bounds__(finish_channels* finish_lanes)
    finish_sums(const float* sums, const float* products, Chunks chunks, int64_t channels, Affine affine, bool training,
                Lines lines, float* weight_gradient, float* bias_gradient) {
  __shared__ double shared[2][finish_lanes][finish_channels];
  const int64_t channel = int64_t(blockIdx.x) * finish_channels + threadIdx.x, at = least(channel, channels - 1);
  const auto total = [&](const float* of, double (&space)[finish_lanes][finish_channels]) {
    return sum_over_chunks(chunks, space, [&](int64_t chunk) { return double(of[chunk * channels + at]); });
  };
  const double sum = total(sums, shared[0]), product = total(products, shared[1]);
  if (threadIdx.y > 0 || channel >= channels) return;
  const double invstd = affine.invstd[channel];
  const double p = invstd * (affine.weight ? affine.weight[channel] : 1.0f);
  if (weight_gradient) weight_gradient[channel] = float(product * invstd);
  if (bias_gradient) bias_gradient[channel] = float(sum);
  lines.p[channel] = float(p);
  if (!training) return;
  lines.q[channel] = float(-p * invstd * invstd * product / double(chunks.rows));
  lines.r[channel] = float(sum / double(chunks.rows));
}

template <class T, Neighbours neighbours>
__global__ void __launch_bounds__(block_threads)
    input_gradient(Gradient<T> gradient, MapIndex index, Tail tail, bool training, Lines lines, T* to, T* residual_to) {
  const int64_t step = int64_t(gridDim.x) * block_elements;
  int64_t at = int64_t(blockIdx.x) * block_elements + 4 * threadIdx.x;
  ChannelCursor cursor(index, at, step);
  for (int64_t base = int64_t(blockIdx.x) * block_elements; base < tail.size; base += step, at += step) {
    float g[4], x[4];
    tail.load(gradient.gradient, at, g);
    if (training || gradient.relu) tail.load(gradient.input, at, x);
    if (gradient.output) {
      float y[4];
      tail.load(gradient.output, at, y);
#pragma unroll
      for (int k = 0; k < 4; ++k) g[k] = gradient.behind_output(g[k], y[k]);
    }
    if (gradient.drop) {
      float multipliers[4];
      gradient.mask.four(uint64_t(at), multipliers);
#pragma unroll
      for (int k = 0; k < 4; ++k) g[k] *= multipliers[k];
    }
    if (gradient.relu) {
      float y[4] = {x[0], x[1], x[2], x[3]};
      gradient.affine.template apply<neighbours>(cursor, y);
#pragma unroll
      for (int k = 0; k < 4; ++k) g[k] = y[k] <= 0 ? 0.0f : g[k];
    }
    if (residual_to) tail.store(residual_to, at, g);
    if (to) {
      float p[4];
      cursor.gather<neighbours>(lines.p, p);
      if (training) {
        float q[4], r[4], mean[4];
        cursor.gather<neighbours>(lines.q, q);
        cursor.gather<neighbours>(lines.r, r);
        cursor.gather<neighbours>(gradient.affine.mean, mean);
#pragma unroll
        for (int k = 0; k < 4; ++k) g[k] = fmaf(p[k], g[k] - r[k], q[k] * (x[k] - mean[k]));
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) g[k] *= p[k];
      }
      tail.store(to, at, g);
    }
    cursor.advance();
  }
}

int64_t padded(int64_t channels) { return ceil_divide(channels, 4) * 4; }

template <class T>
int backward(const PyconvoptBatchNormBackward& p, void* stream) {
  const PyconvoptMap& s = p.shape;
  const Gradient<T> gradient(p);
  const MapIndex index(s);
  Chunks chunks(s);
  const int64_t channels = s.channels, size = elements(s);
  float* space = static_cast<float*>(p.workspace);
  const Lines lines{space, space + padded(channels), space + 2 * padded(channels)};
  float *sums = space + 3 * padded(channels), *products = sums + chunks.count * channels;

  const Affine& a = gradient.affine;
  const bool aligned_lines =
      aligned(a.mean) && aligned(a.invstd) && aligned(a.weight) && aligned(a.bias) && aligned(space);
  const bool maps = aligned(gradient.gradient) && aligned(gradient.input) && aligned(gradient.output);
  if (!p.training && !p.weight_gradient && !p.bias_gradient) chunks.count = 0;  // no sums are asked for
  if (chunks.count) {
    const bool fours = maps && aligned_lines && neighbours_of(s) != Neighbours::any;
    const int vector = fours ? 4 : 1;
    const int error =
        s.layout == PYCONVOPT_NHWC
            ? launch(fours ? sums_rows<T, 4> : sums_rows<T, 1>, rows_grid(chunks, channels, vector),
                     rows_block(channels, vector), stream, gradient, chunks, channels, sums, products)
            : launch(fours ? sums_planes<T, 4> : sums_planes<T, 1>, dim3(unsigned(channels), unsigned(chunks.count)),
                     dim3(1, block_threads), stream, gradient, chunks, index, sums, products);
    if (error) return error;
  }
  if (const int error = launch(finish_sums, finish_grid(channels), finish_block(), stream, sums, products, chunks,
                               channels, gradient.affine, p.training != 0, lines, p.weight_gradient, p.bias_gradient))
    return error;

  T *to = static_cast<T*>(p.input_gradient), *residual_to = static_cast<T*>(p.residual_gradient);
  if (size == 0 || (!to && !residual_to)) return 0;
  const Tail tail{size, maps && aligned(to) && aligned(residual_to)};
  return with_neighbours(s, aligned_lines, [&]<Neighbours neighbours>() {
    return launch(input_gradient<T, neighbours>, elementwise_grid(size), block_threads, stream, gradient, index, tail,
                  p.training != 0, lines, to, residual_to);
  });
}

}  // namespace
}  // namespace pyconvopt::cuda

int64_t pyconvopt_cuda_batch_norm_backward_workspace(const PyconvoptBatchNormBackward* p) {
  using namespace pyconvopt::cuda;
  const int64_t channels = p->shape.channels;
  return (3 * padded(channels) + 2 * Chunks(p->shape).count * channels) * int64_t(sizeof(float));
}

int pyconvopt_cuda_batch_norm_backward(const PyconvoptBatchNormBackward* p, void* stream) {
  using namespace pyconvopt::cuda;
  if (const int error = check(p->shape)) return error;
  if (!valid(p->dropout) || !p->saved_mean || !p->saved_invstd || !p->workspace) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (p->relu && p->residual_gradient && !p->output) return PYCONVOPT_CUDA_BAD_ARGUMENT;
  if (p->shape.channels == 0) return 0;
  return with_type(p->shape.type, [&]<class T>() { return backward<T>(*p, stream); });
}
