// Statistics of a convolution's output, taken while it is in registers. (The lines: ConvForward::moments.)
//
// A few values at a time have their own mean and squared differences from it, and are merged into those of their
// piece (Chan, Golub and LeVeque 1983): nothing cancels where the mean is large against the deviation.
#pragma once
#include "../conv.hpp"
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

// A piece of the statistics, and how many rows are in it already.
struct Piece {
  float* line;
  int64_t before;
};

// Adds `count` vectors of the channels from k on, of which `left` exist.
PYCONVOPT_INLINE void add_moments(const Vec* values, int64_t count, const Piece& piece, int64_t channels, int64_t k,
                                  int64_t left) {
  Vec sum{}, squares{};
  for (int64_t i = 0; i < count; ++i) sum += values[i];
  Vec mean = sum * (1 / float(count));
  for (int64_t i = 0; i < count; ++i) {
    const Vec difference = values[i] - mean;
    squares += difference * difference;
  }
  float *means = piece.line + k, *all_squares = means + channels;
  if (piece.before > 0) {
    const float before = float(piece.before), added = float(count), all = before + added;
    const Vec old = load_channels(means, left), difference = mean - old;
    mean = old + difference * (added / all);
    squares += load_channels(all_squares, left) + difference * difference * (before * (added / all));
  }
  store_channels(means, mean, left);
  store_channels(all_squares, squares, left);
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
