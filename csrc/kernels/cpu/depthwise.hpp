// Depthwise convolution (as many groups as input and output channels): any kernel, stride, dilation
// and padding.
//
// Channels are the vectors; nothing is summed over them, so there is no product to block, and what counts is
// that little is loaded for a multiplication. Neighbouring pixels of the result share the pixels of the source
// and the weights: a run of neighbouring taps is kept in registers while the source's columns go by, each of
// which is loaded once for all the taps that meet it. Forward and data gradient are one and the same walk over a
// row: pixel j of the result sums, over the taps, the source's column(tap) + j·stride.
//
//   weights W[tap][C]
#pragma once
#include "../conv.hpp"
#include "activated.hpp"
#include "gemm.hpp"
#include "moments.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise {

inline constexpr int64_t most_taps = 121;
inline constexpr int block_pixels = 8;
inline constexpr int64_t most_fresh = 2;

inline bool takes_shape(const ConvShape& s) {
  return s.groups == s.in_channels && s.out_channels == s.in_channels && s.in_channels >= lanes &&
         s.kernel_height * s.kernel_width <= most_taps;
}

// Integer division that rounds up, for a positive divisor.
PYCONVOPT_INLINE int64_t divide_up(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

// Calls use.template operator()<taps, stride>() for as many neighbouring taps as are kept in registers together, of
// `taps` a row; for one of them, at any stride, <1, 0>.
template <class Use>
PYCONVOPT_INLINE auto with_run(int64_t taps, int64_t stride, Use use) {
  if (stride == 1) {
    if (taps == 2) return use.template operator()<2, 1>();
    if (taps == 3) return use.template operator()<3, 1>();
    if (taps == 5) return use.template operator()<5, 1>();
    if (taps == 7) return use.template operator()<7, 1>();
  }
  if (stride == 2) {
    if (taps == 3) return use.template operator()<3, 2>();
    if (taps == 5) return use.template operator()<5, 2>();
  }
  return use.template operator()<1, 0>();
}
// How many these are, of a row's `taps` whose columns lie `apart`.
inline int64_t run_taps(int64_t taps, int64_t apart, int64_t stride) {
  return apart == 1 ? with_run(taps, stride, []<int together, int>() { return together; }) : 1;
}

// The columns that the source's rows have, and how many floats lie between two of them.
struct Columns {
  int64_t first, end, step;
};

// Taps that meet neighbouring columns of one row of the source.
struct Run {
  const float* source;   // column 0 of the row
  int64_t column;        // that the first tap meets at the result's pixel 0
  const float* weights;  // of the first tap
};

struct Row {
  int64_t taps;  // of each run
  Run runs[most_taps];
  int64_t count = 0;
  int64_t weight_step;  // from one tap of a run to the next
  Columns columns;
  int64_t stride;
  int64_t pixels;       // of the result
  float* result;        // its pixel 0
  int64_t result_step;  // floats from one pixel of the result to the next
  int64_t inside_first = 0, inside_end;  // pixels for which every tap meets a column that there is
  const float* fresh[most_fresh];        // rows of the source that are read for the first time, and are fetched ahead
  int64_t fresh_count = 0;

  Row(int64_t taps, int64_t weight_step, const Columns& columns, int64_t stride, int64_t pixels, float* result,
      int64_t result_step)
      : taps(taps),
        weight_step(weight_step),
        columns(columns),
        stride(stride),
        pixels(pixels),
        result(result),
        result_step(result_step),
        inside_end(pixels) {}

  void add(const float* source, int64_t column, const float* weights) {
    runs[count++] = {source, column, weights};
    inside_first = greatest(inside_first, divide_up(columns.first - column, stride));
    inside_end = least(inside_end, divide_up(columns.end - taps + 1 - column, stride));
  }
  void fetch(const float* source) {
    if (fresh_count < most_fresh) fresh[fresh_count++] = source;
  }
};

// Pixels x..x+pixels of the result. Channels are the inner loop: memory is read in its order. Columns outside the map
// count as zeros.
template <int taps, int stride, int pixels, bool inside>
PYCONVOPT_INLINE void block_of_pixels(const Row& row, int64_t x, int64_t channels, const float* bias,
                                      Activation activation) {
  constexpr int next_pixel = stride ? stride : 1, columns = (pixels - 1) * next_pixel + taps;
  const int64_t step = row.columns.step * (stride ? 1 : row.stride);
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
      const Run& run = row.runs[i];
      const int64_t column = run.column + x * row.stride;
      const float* from = run.source + column * row.columns.step + c;
      Vec w[taps];
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) w[t] = load(run.weights + t * row.weight_step + c, part);
#pragma GCC unroll 32
      for (int j = 0; j < columns; ++j, from += step) {
        const int64_t at = column + j * (stride ? 1 : row.stride);
        if (!inside && (at < row.columns.first || at >= row.columns.end)) continue;
        const Vec value = load(from, part);
#pragma GCC unroll 8
        for (int t = 0; t < taps; ++t)
          if (const int p = (j - t) / next_pixel; t <= j && (j - t) % next_pixel == 0 && p < pixels)
            sum[p] += value * w[t];
      }
    }
    with_activation(activation, [&]<Activation known>() __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int i = 0; i < pixels; ++i)
        store(row.result + (x + i) * row.result_step + c, activated<known>(sum[i]), part);
    });
  });
}

// Adds a row of the result to the statistics, a few pixels at a time.
inline void take_statistics(const Row& row, int64_t channels, Piece& piece) {
  for (int64_t x = 0; x < row.pixels; x += block_pixels) {
    const int64_t count = least(block_pixels, row.pixels - x);
    for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
      Vec values[block_pixels];
      for (int64_t i = 0; i < count; ++i) values[i] = load(row.result + (x + i) * row.result_step + c, part);
      add_moments(values, count, piece, channels, c, channels - c);
    });
    piece.before += count;
  }
}

// A whole row: activation(Σ taps + bias).
__attribute__((noinline)) inline void run_row(const Row& row, int64_t channels, const float* bias, Activation activation) {
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
