// Depthwise convolution (as many groups as input and output channels): any kernel, stride, dilation
// and padding.
//
// Channels are the vectors; nothing is summed over them, so there is no product to block: an output
// is taps × (one load, one multiplication), and what counts is that weights stay in registers while
// neighbouring pixels share them. Forward and data gradient are one and the same walk over a row:
// pixel j of the result sums, over the taps, the source's pixel at(tap) + j·step. Taps that leave the
// map at some pixels have a range of pixels they count for; away from the borders all of them do.
//
//   weights W[tap][C]
#pragma once
#include "../conv.hpp"
#include "activated.hpp"
#include "gemm.hpp"
#include "moments.hpp"
#include "reading.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise {

inline constexpr int64_t most_taps = 121;
inline constexpr int block_pixels = 8;
inline constexpr int64_t most_fresh = 2;

inline bool takes_shape(const ConvShape& s) {
  return s.groups == s.in_channels && s.out_channels == s.in_channels && s.in_channels >= lanes &&
         s.kernel_height * s.kernel_width <= most_taps;
}

// One tap of a row: the source's pixel for the result's pixel 0, its weights, and the pixels
// first..end of the result for which it lies inside the map.
struct Tap {
  const float* source;
  const float* weights;
  int64_t first, end;
};

struct Row {
  Tap taps[most_taps];
  int64_t count = 0;    // of taps
  int64_t pixels;       // of the result
  float* result;        // its pixel 0
  int64_t result_step;  // floats from one pixel of the result to the next
  int64_t source_step;
  int64_t inside_first, inside_end;  // pixels that every tap counts for
  const float* fresh[most_fresh];    // sources whose rows are read for the first time, and are fetched ahead
  int64_t fresh_count = 0;

  Row(int64_t pixels, float* result, int64_t result_step, int64_t source_step)
      : pixels(pixels),
        result(result),
        result_step(result_step),
        source_step(source_step),
        inside_first(0),
        inside_end(pixels) {}

  void add(const float* source, const float* weights, int64_t first, int64_t end) {
    if (first >= end) return;
    taps[count++] = {source, weights, first, end};
    inside_first = greatest(inside_first, first);
    inside_end = least(inside_end, end);
  }
  void fetch(const float* source) {
    if (fresh_count < most_fresh) fresh[fresh_count++] = source;
  }
};

// Pixels x..x+rows of the result, all taps inside. Channels are the inner loop: memory is read in its
// order, and the weights, a few kilobytes, come from the first-level cache once for all the pixels.
template <int rows>
PYCONVOPT_INLINE void pixels_inside(const Row& row, int64_t x, int64_t channels, const float* bias,
                                    Activation activation) {
  for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
    Vec sum[rows];
    const Vec start = bias ? load(bias + c, part) : Vec{};
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) sum[i] = start;
    const int64_t at = x * row.source_step + c;
    if constexpr (rows == block_pixels)
      for (int64_t i = 0; i < row.fresh_count; ++i) {
        const float* from = row.fresh[i] + at + rows * row.source_step;
        for (const float* next = from; next < from + rows * row.source_step; next += channels) __builtin_prefetch(next);
      }
    for (int64_t t = 0; t < row.count; ++t) {
      const Vec w = load(row.taps[t].weights + c, part);
      const float* from = row.taps[t].source + at;
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) sum[i] += load(from + i * row.source_step, part) * w;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
      store(row.result + (x + i) * row.result_step + c, activated(activation, sum[i]), part);
  });
}

// One pixel with the taps that lie inside the map for it; several vectors of channels at once take the
// place of the neighbours.
inline void pixel_at_border(const Row& row, int64_t x, int64_t channels, const float* bias, Activation activation) {
  constexpr int vectors = 4;
  const float *source[most_taps], *weights[most_taps];
  int64_t count = 0;
  for (int64_t t = 0; t < row.count; ++t)
    if (const Tap& tap = row.taps[t]; tap.first <= x && x < tap.end) {
      source[count] = tap.source + x * row.source_step;
      weights[count++] = tap.weights;
    }
  float* result = row.result + x * row.result_step;
  const auto sum_taps = [&]<int n>(int64_t c, auto part) __attribute__((always_inline)) {
    Vec sum[n];
#pragma GCC unroll 4
    for (int i = 0; i < n; ++i) sum[i] = bias ? load(bias + c + i * lanes, part) : Vec{};
    for (int64_t t = 0; t < count; ++t)
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i)
        sum[i] += load(source[t] + c + i * lanes, part) * load(weights[t] + c + i * lanes, part);
#pragma GCC unroll 4
    for (int i = 0; i < n; ++i) store(result + c + i * lanes, activated(activation, sum[i]), part);
  };
  int64_t c = 0;
  for (; c + vectors * lanes <= channels; c += vectors * lanes) sum_taps.template operator()<vectors>(c, Whole{});
  for (; c + lanes <= channels; c += lanes) sum_taps.template operator()<1>(c, Whole{});
  if (c < channels) sum_taps.template operator()<1>(c, First{int(channels - c)});
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
inline void run_row(const Row& row, int64_t channels, const float* bias, Activation activation) {
  const int64_t first = least(row.inside_first, row.pixels), end = greatest(first, row.inside_end);
  int64_t x = 0;
  const auto inside = [&]<int pixels>() {
    for (; x + pixels <= end; x += pixels) pixels_inside<pixels>(row, x, channels, bias, activation);
  };
  const auto border = [&](int64_t until) {
    for (; x < until; ++x) pixel_at_border(row, x, channels, bias, activation);
  };
  border(first);
  inside.template operator()<block_pixels>();
  inside.template operator()<2>();
  inside.template operator()<1>();
  border(row.pixels);
}

// The input's rows, as they lie or copied between zeros, so that every tap counts for every pixel: those of a batch
// norm, which are normalised on the way, or where a convolution asks for it. Copies are made once, and kept while a
// window over them moves down; each thread has its own.
class InputRows {
 public:
  InputRows(const ConvShape& s, const float* input, const Reading& reading, bool copied, float* space)
      : shape_(s),
        input_(input),
        reading_(reading),
        copied_(copied),
        copies_(space),
        held_(reinterpret_cast<int64_t*>(space + window(s) * row_floats(s))) {
    if (!copied) return;
    for (int64_t i = 0; i < window(s); ++i) held_[i] = -1;
    for (int64_t i = 0; i < window(s) * row_floats(s); ++i) copies_[i] = 0;
  }

  static int64_t window(const ConvShape& s) { return (s.kernel_height - 1) * s.dilation_height + 1; }
  // A row with what is read on both sides of it.
  static int64_t row_pixels(const ConvShape& s) {
    const int64_t read = (s.out_width() - 1) * s.stride_width + (s.kernel_width - 1) * s.dilation_width + 1;
    return greatest(read, s.in_width + s.padding_width);
  }
  static int64_t row_floats(const ConvShape& s) { return round_up(row_pixels(s) * s.in_channels, 16); }
  bool copied() const { return copied_; }
  // Of the space for the rows of a window, and for their numbers.
  static int64_t floats(const ConvShape& s) { return round_up(window(s) * (row_floats(s) + 2), 16); }
  // Pixel 0 of row y of image n.
  const float* at(int64_t n, int64_t y) {
    const float* from = in_place(n, y);
    if (!copied_) return from;
    const int64_t line = n * shape_.in_height + y, slot = y % window(shape_), channels = shape_.in_channels;
    float* to = copies_ + slot * row_floats(shape_) + shape_.padding_width * channels;
    if (held_[slot] == line) return to;
    held_[slot] = line;
    reading_.with([&](auto way) {
      for (int64_t x = 0; x < shape_.in_width; ++x)
        for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
          store(to + x * channels + c, way.at(c)(load(from + x * channels + c, part)), part);
        });
    });
    return to;
  }
  const float* in_place(int64_t n, int64_t y) const {
    return input_ + (n * shape_.in_height + y) * shape_.in_width * shape_.in_channels;
  }
  // What to fetch meanwhile, if y is among the last rows that a row of the output reads.
  const float* next(int64_t n, int64_t y) const { return in_place(n, copied_ ? y + shape_.stride_height : y); }

 private:
  const ConvShape& shape_;
  const float* input_;
  const Reading& reading_;
  bool copied_;
  float* copies_;
  int64_t* held_;
};

// Whether the rows of a window are few enough to be copied. In floating point: the product may pass 64 bits.
inline bool can_copy(const ConvShape& s) {
  return double(InputRows::window(s)) * double(InputRows::row_pixels(s)) * double(s.in_channels) <= double(1 << 20);
}

// Integer division that rounds up, for a positive divisor.
PYCONVOPT_INLINE int64_t divide_up(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise
