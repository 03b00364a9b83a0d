// What the gradients of a depthwise convolution are made of, in passes of their own or in one.
//
// In the data gradient of a strided convolution the pixels of a row at the same offset modulo the
// stride meet the same taps: each such phase is a row of its own.
#pragma once
#include <numeric>

#include "depthwise_input.hpp"
#include "depthwise_weights.hpp"
#include "norm_sums.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise {

// The taps of a row of the filter through which an output reads the input's columns of one phase. From the last one
// on: the output's columns that they meet ascend.
struct PhaseTaps {
  int64_t count = 0, last = 0, step = 1;  // of taps, from one to the next
  int64_t column = 0, apart = 1;          // of the output, for the phase's first pixel
  PhaseTaps(const ConvShape& s, int64_t phase) {
    for (int64_t q = s.kernel_width - 1; q >= 0; --q) {
      const int64_t across = phase + s.padding_width - q * s.dilation_width;
      if (across % s.stride_width) continue;
      const int64_t met = across / s.stride_width;
      if (count == 0) last = q, column = met;
      if (count == 1) step = last - q, apart = met - column;
      ++count;
    }
  }
};

// Row y of an image of the input's gradient, into `result`. rows(y): row y of the output's gradient of that image;
// `fetch`: whether rows lie in memory, and are to be fetched ahead.
template <class Rows>
void data_gradient_line(const ConvShape& s, const PackedWeights& weights, int64_t y, float* result, bool fetch,
                        Rows rows) {
  const int64_t channels = s.in_channels, height = s.out_height();
  for (int64_t phase = 0; phase < least(s.stride_width, s.in_width); ++phase) {
    const PhaseTaps met(s, phase);
    const int64_t taps = run_taps(met.count, met.apart, 1);
    Row row(taps, -met.step * channels, {0, s.out_width(), channels}, 1,
            (s.in_width - phase + s.stride_width - 1) / s.stride_width, result + phase * channels,
            s.stride_width * channels);
    for (int64_t r = 0; r < s.kernel_height; ++r) {
      const int64_t down = y + s.padding_height - r * s.dilation_height;
      if (down < 0 || down % s.stride_height || down / s.stride_height >= height) continue;
      const float* pixels = rows(down / s.stride_height);
      if (fetch && r < s.stride_height) row.fetch(pixels);
      for (int64_t i = 0; i < met.count; i += taps)
        row.add(pixels, met.column + i * met.apart, weights.tap(r, met.last - i * met.step));
    }
    run_row(row, channels, nullptr, Activation::none);
  }
}

// How the sums are split: groups of lines, which single precision can sum, and parts of the channels where the sums of
// all would leave no room in the first-level cache, or the groups are too few for the threads.
struct Split {
  int64_t lines, each, groups;  // lines of the gradient, of a group, and how many groups
  int64_t part, parts;          // channels
  Split(const ConvShape& s, int64_t threads) : lines(s.batch * s.out_height()) {
    constexpr int64_t most_groups = 64, least_groups = 16, enough_pixels = 256, most_pixels = 16384, least_part = 64,
                      most_sums = 8192;
    const auto lines_of = [&](int64_t pixels) { return (pixels + s.out_width() - 1) / s.out_width(); };
    each = greatest((lines + most_groups - 1) / most_groups, lines_of(enough_pixels));
    each = least(each, lines_of(most_pixels));
    // Where it leaves groups enough, a group's rows of the input are whole pieces of the sums of a norm in front.
    const int64_t whole = round_up(each, piece_lines(s));
    if (whole * least_groups <= lines) each = whole;
    groups = (lines + each - 1) / each;
    const int64_t taps = s.kernel_height * s.kernel_width, items = 2 * threads;
    const int64_t wanted = greatest((s.in_channels * taps + most_sums - 1) / most_sums, (items + groups - 1) / groups);
    part = greatest(least_part, round_up((s.in_channels + wanted - 1) / wanted, 16));
    parts = (s.in_channels + part - 1) / part;
  }
  int64_t first(int64_t group) const { return least(lines, group * each); }  // line of it

 private:
  // Lines of the gradient that bring a whole number of pieces.
  static int64_t piece_lines(const ConvShape& s) {
    const int64_t piece = NormSums::piece(s.batch * s.in_height * s.in_width), line = s.stride_height * s.in_width;
    return piece / std::gcd(piece, line);
  }
};

// What later rows read for the first time, in pieces as long as a row of the gradient: with each of its pixels a vector
// of each piece is fetched.
struct Ahead {
  static constexpr int most = 6;
  const float* piece[most];
  int count = 0;
  void add(const float* row, int64_t floats, int64_t piece_floats) {
    for (int64_t at = 0; at < floats && count < most; at += piece_floats) piece[count++] = row + at;
  }
};

// Adds a row of the output's gradient (row y of image n, `gradient`) to sums[tap][C], some channels of both. Fetches
// what is ahead, and what the row below reads of the input.
void add_line(const ConvShape& s, const float* gradient, Ahead ahead, InputRows& input, Channels part, int64_t n,
              int64_t y, float* sums);

// The weight's gradient, from partial[group][tap][C]; to be called by all threads.
void add_groups(const ConvShape& s, int64_t groups, const float* partial, const WeightStrides& strides, float* result);

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise
