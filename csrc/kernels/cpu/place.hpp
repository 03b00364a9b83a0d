// A place in a batch of maps, counted image by image, row by row.
#pragma once
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

// Of every pixel, or of every first one of tiles `step` pixels high and wide.
struct Place {
  int64_t image, row, column;

  static PYCONVOPT_INLINE Place number(int64_t index, int64_t rows, int64_t columns, int64_t step = 1) {
    return {index / columns / rows, index / columns % rows * step, index % columns * step};
  }
  // The next one. Divisions of 64 bits, asked for each, would take as long as a good part of what is done there.
  PYCONVOPT_INLINE void advance(int64_t rows, int64_t columns, int64_t step = 1) {
    if ((column += step) < columns * step) return;
    column = 0;
    if ((row += step) < rows * step) return;
    row = 0;
    ++image;
  }
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
