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

namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise {

inline constexpr int64_t most_taps = 121;
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
  const float* source;  // column 0 of the row
  int64_t column;       // that the first tap meets at the result's pixel 0
};
struct WeightedRun : Run {
  const float* weights;  // of the first tap
};

// use(pixel, tap, value) for what `pixels` pixels of the result, from x on, meet through a run's taps: a vector of
// channels of each column, loaded once. Columns outside the map are left out, unless all lie inside.
template <int taps, int stride, int pixels, bool inside, class Part, class Use>
PYCONVOPT_INLINE void for_each_column(const Run& run, const Columns& columns, int64_t row_stride, int64_t x, int64_t c,
                                      Part part, Use use) {
  constexpr int next_pixel = stride ? stride : 1, count = (pixels - 1) * next_pixel + taps;
  const int64_t apart = stride ? 1 : row_stride, first = run.column + x * row_stride;
  const float* from = run.source + first * columns.step + c;
#pragma GCC unroll 32
  for (int j = 0; j < count; ++j, from += apart * columns.step) {
    const int64_t column = first + j * apart;
    if (!inside && (column < columns.first || column >= columns.end)) continue;
    const Vec value = load(from, part);
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t)
      if (const int p = (j - t) / next_pixel; t <= j && (j - t) % next_pixel == 0 && p < pixels) use(p, t, value);
  }
}

struct Row {
  int64_t taps;  // of each run
  WeightedRun runs[most_taps];
  int64_t count = 0;
  int64_t weight_step;  // from one tap of a run to the next
  Columns columns;
  int64_t stride;
  int64_t pixels;                        // of the result
  float* result;                         // its pixel 0
  int64_t result_step;                   // floats from one pixel of the result to the next
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
    runs[count++] = {{source, column}, weights};
    inside_first = greatest(inside_first, divide_up(columns.first - column, stride));
    inside_end = least(inside_end, divide_up(columns.end - taps + 1 - column, stride));
  }
  void fetch(const float* source) {
    if (fresh_count < most_fresh) fresh[fresh_count++] = source;
  }
};

// A whole row: activation(Σ taps + bias).
void run_row(const Row& row, int64_t channels, const float* bias, Activation activation);

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise
