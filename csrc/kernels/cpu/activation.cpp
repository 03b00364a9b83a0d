// ReLU forward and backward, and the sums over rows of a bias gradient. All are bound by memory; the
// backward takes the bias gradient in the same pass, which saves reading the gradient once more.
#include "../activation.hpp"

#include "rows.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

void forward(const ReluForward& p) {
  const Chunks chunks(p.size, 1, lanes);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
    const int64_t begin = chunks.begin(chunk);
    for_each_vector(chunks.end(chunk) - begin, [&](int64_t i, auto part) {
      store(p.output + begin + i, relu(load(p.input + begin + i, part)), part);
    });
  });
}

template <class Part>
PYCONVOPT_INLINE Vec masked(const ReluBackward& p, int64_t at, Part part) {
  const Vec gradient = load(p.output_gradient + at, part);
  return load(p.output + at, part) <= 0.0f ? Vec{} : gradient;  // a NaN output lets it pass
}

void elementwise_backward(const ReluBackward& p) {
  const Chunks chunks(p.rows * p.channels, 1, lanes);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
    const int64_t begin = chunks.begin(chunk);
    for_each_vector(chunks.end(chunk) - begin, [&](int64_t i, auto part) {
      store(p.input_gradient + begin + i, masked(p, begin + i, part), part);
    });
  });
}

void backward(const ReluBackward& p) {
  if (!p.channel_sum) return elementwise_backward(p);
  const Chunks chunks(p.rows, p.channels);
  ChunkSums<1> sums(chunks.count, p.channels);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t thread) {
    sum_chunk(in_blocks(p.rows * p.channels), sums, chunk, thread, chunks.begin(chunk), chunks.end(chunk), p.channels,
              [&](int64_t row, int64_t c, auto part, Vec* s) __attribute__((always_inline)) {
                const int64_t at = row * p.channels + c;
                const Vec gradient = masked(p, at, part);
                store(p.input_gradient + at, gradient, part);
                s[0] += gradient;
              });
  });
  const double* total = sums.total();
  for (int64_t c = 0; c < p.channels; ++c) p.channel_sum[c] = float(total[c]);
}

void channel_sum(const ChannelSum& p) {
  const Chunks chunks(p.rows, p.channels);
  ChunkSums<1> sums(chunks.count, p.channels);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t thread) {
    sum_chunk(in_blocks(p.rows * p.channels), sums, chunk, thread, chunks.begin(chunk), chunks.end(chunk), p.channels,
              [&](int64_t row, int64_t c, auto part, Vec* s)
                  __attribute__((always_inline)) { s[0] += load(p.input + row * p.channels + c, part); });
  });
  const double* total = sums.total();
  for (int64_t c = 0; c < p.channels; ++c) p.sum[c] = float(total[c]);
}

template <class P>
bool applies(const P&) {
  return true;
}

}  // namespace

constexpr const char* why = "one pass at the speed of memory";
extern const Kernel<ReluForward> relu_forward;
const Kernel<ReluForward> relu_forward{"vector", why, applies<ReluForward>, forward};
extern const Kernel<ReluBackward> relu_backward;
const Kernel<ReluBackward> relu_backward{"vector", why, applies<ReluBackward>, backward};
extern const Kernel<ChannelSum> rows_channel_sum;
const Kernel<ChannelSum> rows_channel_sum{"vector", why, applies<ChannelSum>, channel_sum};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
