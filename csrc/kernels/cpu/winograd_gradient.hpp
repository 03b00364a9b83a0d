// The tile of the output's gradient that the backward passes transform, for some channels at a
// time: of the map itself, or spread from the gradient of the 2×2-pooled map while it is read. Tiles
// start at even rows and columns, so pooled pixels and their bytes make whole tiles, and the map between,
// five times as large, is never stored.
#pragma once
#include "winograd.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd {

template <class F>
class MapTile {
 public:
  static constexpr int side = F::outputs;

  template <class Problem>
  MapTile(const Problem& p, const TilePlace& place, const float* zeros)
      : pixels_(p.output_gradient + place.image * p.shape.out_height() * p.shape.out_width() * p.shape.out_channels,
                p.shape.out_height(), p.shape.out_width(), p.shape.out_channels, place.row, place.column, zeros),
        next_(side * p.shape.out_channels) {}

  // Channels from k on, of which `left` exist; pixels row by row.
  PYCONVOPT_INLINE void read(int64_t k, int64_t left, Vec values[side * side]) const {
    if (left >= lanes) {
#pragma GCC unroll 16
      for (int at = 0; at < side * side; ++at) {
        values[at] = load(pixels_.at[at] + k);
        __builtin_prefetch(pixels_.at[at] + k + next_);
      }
    } else {
#pragma GCC unroll 16
      for (int at = 0; at < side * side; ++at) values[at] = load_first(pixels_.at[at] + k, int(left));
    }
  }

 private:
  PixelPointers<side> pixels_;
  int64_t next_;  // floats to the tile beside this one, which comes next
};

template <class F>
class PooledTile {
 public:
  static constexpr int side = F::outputs;

  template <class Problem>
  PooledTile(const Problem& p, const TilePlace& place, const float* zeros) {
    const int64_t height = p.shape.out_height() / 2, width = p.shape.out_width() / 2, channels = p.shape.out_channels;
    for (int i = 0; i < windows; ++i) {
      const int64_t y = place.row / 2 + i / across, x = place.column / 2 + i % across;
      const int64_t at = ((place.image * height + y) * width + x) * channels;
      const bool inside = y < height && x < width;  // pixels of no window have no gradient
      gradient_[i] = inside ? p.output_gradient + at : zeros;
      argmax_[i] = inside ? p.argmax + at : reinterpret_cast<const uint8_t*>(zeros);
    }
  }

  PYCONVOPT_INLINE void read(int64_t k, int64_t left, Vec values[side * side]) const {
    if (left >= lanes) spread(k, Whole{}, values);
    else spread(k, First{int(left)}, values);
  }

 private:
  template <class Part>
  PYCONVOPT_INLINE void spread(int64_t k, Part part, Vec values[side * side]) const {
#pragma GCC unroll 4
    for (int i = 0; i < windows; ++i) {
      const Vec gradient = load(gradient_[i] + k, part);
      const IVec position = load_bytes(argmax_[i] + k, part);
      Vec* corner = values + i / across * 2 * side + i % across * 2;
#pragma GCC unroll 4
      for (int at = 0; at < 4; ++at) corner[at / 2 * side + at % 2] = position == at ? gradient : Vec{};
    }
  }

  static constexpr int across = side / 2, windows = across * across;
  const float* gradient_[windows];
  const uint8_t* argmax_[windows];
};

// A transform of a side's values to `values`, along both axes of a tile that `gradient` reads from channel k on;
// the results go to out + position·step.
template <class Points, class GradientTile, class Transform>
PYCONVOPT_INLINE void transform_tile(const GradientTile& gradient, int64_t k, int64_t left, Transform transform,
                                     float* out, int64_t step) {
  constexpr int side = GradientTile::side, values = Points::values;
  Vec pixels[side * side], half_way[values * side];
  gradient.read(k, left, pixels);
#pragma GCC unroll 4
  for (int j = 0; j < side; ++j) transform(pixels + j, side, half_way + j, side);
#pragma GCC unroll 9
  for (int i = 0; i < values; ++i) {
    Vec d[values];
    transform(half_way + i * side, 1, d, 1);
#pragma GCC unroll 9
    for (int j = 0; j < values; ++j) store(out + Points::place(i, j) * step, d[j]);
  }
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd
