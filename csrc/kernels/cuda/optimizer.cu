// SGD and Adam steps over many tensors a launch, one pass each: 20 bytes an element for SGD with momentum,
// 28 for Adam. The operations and their order are those of cpu/optimizer.cpp.
//
// Up to 32 tensors travel in the kernel's own arguments (4 KB at most), so that a step needs no memory for
// their addresses; a block takes a piece of 4096 elements of one of them. A captured CUDA graph repeats the
// learning rate and the step number that it was captured with.
#include <cmath>

#include "device.cuh"

namespace pyconvopt::cuda {
namespace {

constexpr int tensors_a_launch = 32;
constexpr int64_t piece = 4 * block_elements;

template <class Tensor>
struct Batch {
  Tensor tensors[tensors_a_launch];
  unsigned first_block[tensors_a_launch + 1];  // of every tensor, then the end
};

// update(tensor, element) for the thread's groups of four elements of its block's piece.
template <class Tensor, class Update>
__device__ __forceinline__ void for_each_four(const Batch<Tensor>& batch, Update update) {
  int t = 0;
  while (blockIdx.x >= batch.first_block[t + 1]) ++t;
  const Tensor& tensor = batch.tensors[t];
  const int64_t begin = int64_t(blockIdx.x - batch.first_block[t]) * piece;
  const int64_t end = least(tensor.tail.size, begin + piece);
  for (int64_t at = begin + 4 * threadIdx.x; at < end; at += block_elements) update(tensor, at);
}

// Launches kernel(batch, options) for all tensors; take(source) makes a tensor of a batch.
template <class Tensor, class Source, class Options, class Take>
int for_batches(const Source* sources, int64_t count, void (*kernel)(Batch<Tensor>, Options), const Options& options,
                void* stream, Take take) {
  Batch<Tensor> batch;
  int used = 0;
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t pieces = ceil_divide(sources[i].size, piece);
    if (pieces == 0) continue;
    if (pieces >= int64_t(1) << 30) return PYCONVOPT_CUDA_TOO_LARGE;
    batch.tensors[used] = take(sources[i]);
    batch.first_block[used] = unsigned(blocks);
    blocks += pieces;
    ++used;
    batch.first_block[used] = unsigned(blocks);
    if (used < tensors_a_launch && blocks < int64_t(1) << 30 && i + 1 < count) continue;
    if (const int error = launch(kernel, dim3(unsigned(blocks)), block_threads, stream, batch, options)) return error;
    used = 0;
    blocks = 0;
  }
  return used ? launch(kernel, dim3(unsigned(blocks)), block_threads, stream, batch, options) : 0;
}

struct SgdTensor {
  Tail tail;
  float* parameter;
  const float* gradient;
  float* momentum;
  bool first;
};
struct SgdOptions {
  float sign, decay, momentum, fresh, step;
  bool nesterov;
};

__global__ void __launch_bounds__(block_threads) sgd(Batch<SgdTensor> batch, SgdOptions o) {
  for_each_four(batch, [&](const SgdTensor& t, int64_t at) {
    float w[4], g[4], v[4];
    t.tail.load(t.parameter, at, w);
    t.tail.load(t.gradient, at, g);
    if (t.momentum && !t.first) t.tail.load(t.momentum, at, v);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      g[k] *= o.sign;
      if (o.decay != 0) g[k] += o.decay * w[k];
      if (t.momentum) {
        v[k] = t.first ? g[k] : v[k] * o.momentum + o.fresh * g[k];
        g[k] = o.nesterov ? g[k] + o.momentum * v[k] : v[k];
      }
      w[k] += o.step * g[k];
    }
    if (t.momentum) t.tail.store(t.momentum, at, v);
    t.tail.store(t.parameter, at, w);
  });
}

struct AdamTensor {
  Tail tail;
  float* parameter;
  const float* gradient;
  float *mean, *variance;
  float step, root;  // −lr / (1 − β₁ᵗ), √(1 − β₂ᵗ)
};
struct AdamOptions {
  float sign, decay, shrink, beta1, fresh1, beta2, fresh2, epsilon;
  bool small_step;  // torch's lerp starts from the nearer end
};

__global__ void __launch_bounds__(block_threads) adam(Batch<AdamTensor> batch, AdamOptions o) {
  for_each_four(batch, [&](const AdamTensor& t, int64_t at) {
    float w[4], g[4], m[4], v[4];
    t.tail.load(t.parameter, at, w);
    t.tail.load(t.gradient, at, g);
    t.tail.load(t.mean, at, m);
    t.tail.load(t.variance, at, v);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      w[k] *= o.shrink;
      g[k] *= o.sign;
      if (o.decay != 0) g[k] += o.decay * w[k];
      const float difference = g[k] - m[k];
      m[k] = o.small_step ? m[k] + o.fresh1 * difference : g[k] - difference * o.beta1;
      v[k] = v[k] * o.beta2 + o.fresh2 * (g[k] * g[k]);
      w[k] += t.step * (m[k] / (sqrtf(v[k]) / t.root + o.epsilon));
    }
    t.tail.store(t.mean, at, m);
    t.tail.store(t.variance, at, v);
    t.tail.store(t.parameter, at, w);
  });
}

}  // namespace
}  // namespace pyconvopt::cuda

int pyconvopt_cuda_sgd(const PyconvoptSgdStep* p, void* stream) {
  using namespace pyconvopt::cuda;
  const SgdOptions options{p->maximize ? -1.0f : 1.0f, float(p->weight_decay), float(p->momentum),
                           float(1 - p->dampening),    float(-p->lr),          p->nesterov != 0};
  return for_batches(p->tensors, p->count, sgd, options, stream, [](const PyconvoptSgdTensor& t) {
    return SgdTensor{{t.size, aligned(t.parameter) && aligned(t.gradient) && aligned(t.momentum)},
                     t.parameter,
                     t.gradient,
                     t.momentum,
                     t.first != 0};
  });
}

int pyconvopt_cuda_adam(const PyconvoptAdamStep* p, void* stream) {
  using namespace pyconvopt::cuda;
  const AdamOptions options{p->maximize ? -1.0f : 1.0f,
                            p->decoupled ? 0.0f : float(p->weight_decay),
                            float(p->decoupled ? 1 - p->lr * p->weight_decay : 1),
                            float(p->beta1),
                            float(1 - p->beta1),
                            float(p->beta2),
                            float(1 - p->beta2),
                            float(p->epsilon),
                            1 - p->beta1 < 0.5};
  return for_batches(p->tensors, p->count, adam, options, stream, [&](const PyconvoptAdamTensor& t) {
    return AdamTensor{{t.size, aligned(t.parameter) && aligned(t.gradient) && aligned(t.mean) && aligned(t.variance)},
                      t.parameter,
                      t.gradient,
                      t.mean,
                      t.variance,
                      float(-p->lr / (1 - std::pow(p->beta1, t.step))),
                      float(std::sqrt(1 - std::pow(p->beta2, t.step)))};
  });
}
