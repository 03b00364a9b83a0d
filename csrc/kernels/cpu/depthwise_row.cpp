// A row of the result of a depthwise convolution or of its data gradient.  (The method: depthwise.hpp.)
#include "depthwise.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise {
namespace {

// Pixels x..x+pixels of the result. Channels are the inner loop: memory is read in its order. Columns outside the map
// count as zeros.
template <int taps, int stride, int pixels, bool inside>
PYCONVOPT_INLINE void block_of_pixels(const Row& row, int64_t x, int64_t channels, const float* bias,
                                      Activation activation) {
  for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
    Vec sum[pixels];
    const Vec start = bias ? load(bias + c, part) : Vec{};
#pragma GCC unroll 8
    for (int i = 0; i < pixels; ++i) sum[i] = start;
    for (int64_t i = 0; i < row.fresh_count; ++i) {
      const float* from = row.fresh[i] + (x + pixels) * row.stride * row.columns.step + c;
      for (int64_t n = 0; n < pixels * row.stride; ++n) __builtin_prefetch(from + n * row.columns.step);
    }
    for (int64_t i = 0; i < row.count; ++i) {
      const WeightedRun& run = row.runs[i];
      Vec w[taps];
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) w[t] = load(run.weights + t * row.weight_step + c, part);
      for_each_column<taps, stride, pixels, inside>(run, row.columns, row.stride, x, c, part,
                                                    [&](int p, int t, Vec value)
                                                        __attribute__((always_inline)) { sum[p] += value * w[t]; });
    }
    with_activation(activation, [&]<Activation known>() __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int i = 0; i < pixels; ++i)
        store(row.result + (x + i) * row.result_step + c, activated<known>(sum[i]), part);
    });
  });
}

}  // namespace

// A whole row: activation(Σ taps + bias).
void run_row(const Row& row, int64_t channels, const float* bias, Activation activation) {
  with_run(row.taps, row.stride, [&]<int taps, int stride>() {
    int64_t x = 0;
    const auto blocks = [&]<int pixels>() __attribute__((always_inline)) {
      for (; x + pixels <= row.pixels; x += pixels)
        if (pixels >= 7 && row.inside_first <= x && x + pixels <= row.inside_end)
          block_of_pixels<taps, stride, pixels, true>(row, x, channels, bias, activation);
        else block_of_pixels<taps, stride, pixels, false>(row, x, channels, bias, activation);
    };
    if (row.pixels % 8 && row.pixels % 7 == 0) blocks.template operator()<7>();
    blocks.template operator()<8>();
    blocks.template operator()<4>();
    blocks.template operator()<2>();
    blocks.template operator()<1>();
  });
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise
