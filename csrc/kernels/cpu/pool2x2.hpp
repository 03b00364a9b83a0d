// 2×2 windows with stride 2 over an NHWC map: geometry, and choosing among the four pixels.
#pragma once
#include "../norm.hpp"
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

// One line of windows: the two rows of the map it lies on, and the row of the pooled map.
struct Windows {
  int64_t height, width;  // of the pooled map
  int64_t lines;          // over the whole batch
  int64_t pixel, row;     // floats from one pixel, one row of the map to the next
  const MapShape& shape;

  explicit Windows(const MapShape& s)
      : height(s.height / 2),
        width(s.width / 2),
        lines(s.batch * height),
        pixel(s.channels),
        row(s.width * s.channels),
        shape(s) {}
  // Index of the first float of a line in the map, and in the pooled map.
  int64_t map_at(int64_t line) const { return (line / height * shape.height + line % height * 2) * row; }
  int64_t pooled_at(int64_t line) const { return line * width * shape.channels; }
  // Floats from a window's first pixel to its pixel number i.
  int64_t step(int i) const { return i / 2 * row + i % 2 * pixel; }

  // Pixels of no window below and right of the windows of `line`: rest(index of the first float, count).
  template <class Rest>
  PYCONVOPT_INLINE void for_rest(int64_t line, Rest rest) const {
    const int64_t at = map_at(line);
    if (shape.width % 2) {
      rest(at + 2 * width * pixel, pixel);
      rest(at + row + 2 * width * pixel, pixel);
    }
    if (shape.height % 2 && line % height == height - 1) rest(at + 2 * row, row);
  }
};

// The maximum of four pixels and its position, as torch: the first of equals, NaN wins.
PYCONVOPT_INLINE Vec largest(const Vec pixels[4], IVec& position) {
  Vec best = pixels[0];
  position = IVec{};
#pragma GCC unroll 3
  for (int i = 1; i < 4; ++i) {
    const IVec better = (pixels[i] > best) | (pixels[i] != pixels[i]);
    best = better ? pixels[i] : best;
    position = better ? IVec{} + i : position;
  }
  return best;
}

// The gradient of pooled pixels, zero where ReLU or dropout stopped it.
template <class Part>
PYCONVOPT_INLINE Vec live_gradient(const float* gradient, IVec position, Part part) {
  return position < int(pool_dead) ? load(gradient, part) : Vec{};
}

// Pools one window of a convolution's outputs, then its activation: one vector of result and bytes.
PYCONVOPT_INLINE void store_window(const Vec pixels[4], Activation activation, float* output, uint8_t* argmax,
                                   int64_t left) {
  IVec position;
  Vec best = largest(pixels, position);
  if (activation == Activation::relu) {
    position = best <= 0.0f ? IVec{} + int(pool_dead) : position;
    best = relu(best);
  }
  store_channels(output, best, left);
  store_bytes(argmax, position, left);
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
