// 2×2 max-pooling with stride 2 over NHWC maps, channels the vector axis.
//
// The backward walks the windows and writes all four of their pixels, so nothing is cleared first;
// the pixels that no window covers are set to zero on the way. The sum of the gradient a channel is
// taken from the pooled side, which has a quarter of the elements.
#include "../pool.hpp"

#include "pool2x2.hpp"
#include "rows.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

void forward(const MaxPoolForward& p) {
  const Windows windows(p.shape);
  const int64_t channels = p.shape.channels;
  const Chunks chunks(windows.lines, 2 * windows.row, 1);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
    for (int64_t line = chunks.begin(chunk); line < chunks.end(chunk); ++line) {
      const float* map = p.input + windows.map_at(line);
      const int64_t pooled = windows.pooled_at(line);
      for (int64_t x = 0; x < windows.width; ++x)
        for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
          const float* window = map + 2 * x * channels + c;
          const int64_t at = pooled + x * channels + c;
          Vec pixels[4];
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) pixels[i] = load(window + windows.step(i), part);
          IVec position;
          store(p.output + at, largest(pixels, position), part);
          store_bytes(p.argmax + at, position, part);
        });
    }
  });
}

template <bool sum_channels>
void backward(const MaxPoolBackward& p) {
  const Windows windows(p.shape);
  const int64_t channels = p.shape.channels;
  const Chunks chunks(windows.lines, 2 * windows.row, 1);
  ChunkSums<1> sums(sum_channels ? chunks.count : 0, channels);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t thread) {
    if constexpr (sum_channels) {
      sums.clear_single(thread);
      sums.clear(chunk);
    }
    int64_t summed = 0;
    for (int64_t line = chunks.begin(chunk); line < chunks.end(chunk); ++line) {
      float* map = p.input_gradient + windows.map_at(line);
      const int64_t pooled = windows.pooled_at(line);
      const auto spread = [&](int64_t x, int64_t c, auto part, Vec* s) __attribute__((always_inline)) {
        const int64_t at = pooled + x * channels + c;
        const Vec gradient = load(p.output_gradient + at, part);
        const IVec position = load_bytes(p.argmax + at, part);
        float* window = map + 2 * x * channels + c;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) store(window + windows.step(i), position == i ? gradient : Vec{}, part);
        if constexpr (sum_channels) s[0] += position < int(pool_dead) ? gradient : Vec{};
      };
      if constexpr (sum_channels) {
        sum_rows<1>(false, 0, windows.width, channels, sums.single(thread), sums.stride(), spread);
        summed += windows.width;
        if (summed >= flush_rows || line + 1 == chunks.end(chunk)) {
          sums.flush(chunk, thread);
          summed = 0;
        }
      } else {
        for (int64_t x = 0; x < windows.width; ++x)
          for_each_vector(channels,
                          [&](int64_t c, auto part) __attribute__((always_inline)) { spread(x, c, part, nullptr); });
      }
      windows.for_rest(line, [&](int64_t at, int64_t count) {
        for (int64_t i = 0; i < count; ++i) p.input_gradient[at + i] = 0;
      });
    }
  });
  if constexpr (sum_channels) {
    const double* total = sums.total();
    for (int64_t c = 0; c < channels; ++c) p.channel_sum[c] = float(total[c]);
  }
}

void run_backward(const MaxPoolBackward& p) {
  if (p.channel_sum) backward<true>(p);
  else backward<false>(p);
  if (p.shape.height < 2)  // no window, so no line that the rest could belong to
    for (int64_t i = 0; i < p.shape.rows() * p.shape.channels; ++i) p.input_gradient[i] = 0;
}

template <class P>
bool applies(const P&) {
  return true;
}

}  // namespace

constexpr const char* why = "channels are the vectors; one byte of argmax";
extern const Kernel<MaxPoolForward> max_pool2x2_forward;
const Kernel<MaxPoolForward> max_pool2x2_forward{"vector", why, applies<MaxPoolForward>, forward};
extern const Kernel<MaxPoolBackward> max_pool2x2_backward;
const Kernel<MaxPoolBackward> max_pool2x2_backward{"vector", why, applies<MaxPoolBackward>, run_backward};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
