// Winograd's F(4×4, 3×3), F(2×2, 5×5) and F(2×2, 3×3), and F(4×4, 3×3) of stride 2: the geometry of tiles.
//
// A tile of 4×4 outputs of a 3×3 filter, or of 2×2 outputs of a 5×5 filter, comes from a 6×6 tile of the
// input by 36 multiplications a channel pair instead of 144 or 100:  Y = Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A
// (Lavin and Gray 2015, arXiv:1509.09308; the transforms: winograd_points.hpp). On the same points both sizes have
// the same input transform and the same products.
//
// 2×2 outputs of a 3×3 filter take 16 multiplications instead of 36, and transformed weights less than twice the
// weights: for maps so small that the weights' way from memory is what counts.
//
// With stride 2 the outer two taps meet every second pixel and the middle one those between: F(4, 2) and a plain
// product along each dimension, 81 multiplications a tile of 4×4 outputs instead of 144. So does its data gradient,
// where the two give every second pixel each.
//
// The weight gradient is F(3×3, 4×4) or F(5×5, 2×2) on these points: the tile of the output's gradient
// takes the place of the filter.
#pragma once
#include "../conv.hpp"
#include "../dispatch.hpp"
#include "gemm.hpp"
#include "place.hpp"
#include "reading.hpp"
#include "winograd_points.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd {

// Tiles of outputs×outputs results, each from tile×tile pixels, `step` pixels from one to the next.
template <int outputs_, int taps_, int step_, int tile_, class Points_>
struct Size {
  using Points = Points_;
  static constexpr int outputs = outputs_, taps = taps_, step = step_, tile = tile_;
  static constexpr int values = Points::values, positions = values * values;
  static constexpr int factors = Points::factors, weights = factors * factors;
};
using F4x3 = Size<4, 3, 4, 6, SixPoints>;
using F2x5 = Size<2, 5, 2, 6, SixPoints>;
using F2x3 = Size<2, 3, 2, 4, FourPoints>;
using Strided = Size<4, 3, 8, 9, StridedPoints>;
using StridedGradient = Size<8, 3, 4, 5, StridedPoints>;  // of the input, with padding 1

// The tiles of a feature map, numbered image by image, row by row.
template <class F>
struct Tiles {
  int64_t rows, columns, count;
  Tiles(int64_t batch, int64_t height, int64_t width)
      : rows((height + F::outputs - 1) / F::outputs),
        columns((width + F::outputs - 1) / F::outputs),
        count(batch * rows * columns) {}
  explicit Tiles(const ConvShape& s) : Tiles(s.batch, s.out_height(), s.out_width()) {}
};

// Of a tile: row and column of its first output.
struct TilePlace : Place {
  template <class F>
  TilePlace(const Tiles<F>& tiles, int64_t index) : Place(number(index, tiles.rows, tiles.columns, F::outputs)) {}
  template <class F>
  void advance(const Tiles<F>& tiles) {
    Place::advance(tiles.rows, tiles.columns, F::outputs);
  }
};

// The convolutions that Winograd takes: taps×taps, the stride of the size, and channels enough to fill vectors.
template <class F>
bool takes_shape(const ConvShape& s) {
  constexpr int stride = F::step / F::outputs;
  return winograd_enabled() && s.kernel_height == F::taps && s.kernel_width == F::taps && s.stride_height == stride &&
         s.stride_width == stride && s.dilation_height == 1 && s.dilation_width == 1 && s.groups == 1 &&
         s.in_channels >= 16 && s.out_channels >= 16 && s.out_height() >= 2 && s.out_width() >= 2;
}

// Whether a result of so many pixels is a single tile, and transformed weights leave a second-level cache: a direct
// product then takes half the time. Of smaller weights what is joined with a convolution here counts for more.
inline bool one_tile_of_large_weights(const ConvShape& s, int64_t pixels) {
  return pixels <= F4x3::outputs * F4x3::outputs && s.in_channels * s.out_channels >= 1 << 16;
}

// Whether stride 2 has clearly fewer multiplications a channel pair than a direct product. Tiles that lie half outside
// the map count as whole ones; what is done with the weights takes as long as the multiplications of so many tiles.
inline bool strided_saves(const ConvShape& s, int64_t tiles_for_weights) {
  const int64_t direct = s.batch * s.out_height() * s.out_width() * Strided::taps * Strided::taps;
  return 10 * (Tiles<Strided>(s).count * Strided::positions + tiles_for_weights * Strided::weights) <= 9 * direct;
}

// Whether the products' panels of result channels are full enough: with 5×5 filters the gain is too small to
// compute half of one for nothing.
template <class F>
bool fills_panels(int64_t channels) {
  return F::taps == 3 || 4 * channels >= 3 * panel;
}

template <class F>
inline constexpr const char* name = "winograd_f2x5";
template <>
inline constexpr const char* name<F4x3> = "winograd_f4x3";
template <>
inline constexpr const char* name<F2x3> = "winograd_f2x3";
template <>
inline constexpr const char* name<Strided> = "winograd_strided";
template <>
inline constexpr const char* name<StridedGradient> = name<Strided>;

template <class F>
inline constexpr const char* why = "5x5, stride 1: Winograd multiplies up to 2.8 times less";
template <>
inline constexpr const char* why<F4x3> = "3x3, stride 1: Winograd multiplies 2.25 to 4 times less";
template <>
inline constexpr const char* why<F2x3> = "3x3, stride 1, few pixels: Winograd multiplies up to 2.25 times less";
template <>
inline constexpr const char* why<Strided> = "3x3, stride 2: Winograd multiplies up to 1.8 times less";
template <>
inline constexpr const char* why<StridedGradient> = why<Strided>;

// Where the size×size pixels of a tile lie; pixels outside the map point to `zeros`.
template <int size>
struct PixelPointers {
  const float* at[size * size];
  PixelPointers(const float* image, int64_t height, int64_t width, int64_t channels, int64_t row, int64_t column,
                const float* zeros) {
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j) {
        const int64_t y = row + i, x = column + j;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        at[i * size + j] = inside ? image + (y * width + x) * channels : zeros;
      }
  }
};

// Bᵀ d B of one tile for `lanes` channels; the results go to out + position·position_step.
template <class F, class Fetch>
PYCONVOPT_INLINE void input_tile(Fetch fetch, float* out, int64_t position_step) {
  using Points = typename F::Points;
  constexpr int tile = F::tile, values = F::values;
  Vec columns[values * tile];
#pragma GCC unroll 9
  for (int j = 0; j < tile; ++j) {
    Vec d[tile];
#pragma GCC unroll 9
    for (int i = 0; i < tile; ++i) d[i] = fetch(i * tile + j);
    Points::template input<tile>(d, 1, columns + j, tile);
  }
#pragma GCC unroll 9
  for (int i = 0; i < values; ++i) {
    Vec v[values];
    Points::template input<tile>(columns + i * tile, 1, v, 1);
#pragma GCC unroll 9
    for (int j = 0; j < values; ++j) store(out + Points::place(i, j) * position_step, v[j]);
  }
}

// use(c, fetch) for each vector of channels of a tile's input, where fetch(at) gives pixel number `at` of the tile from
// channel c on, read in the given way. Tiles inside the map, most of them, need no list of pointers.
template <class F, class Way, class Use>
PYCONVOPT_INLINE void for_each_input_vector(const ConvShape& s, const float* input, const TilePlace& place,
                                            const float* zeros, const Way& way, Use use) {
  constexpr int tile = F::tile;
  const int64_t row = place.row / F::outputs * F::step - s.padding_height;
  const int64_t column = place.column / F::outputs * F::step - s.padding_width;
  const float* image = input + place.image * s.in_height * s.in_width * s.in_channels;
  const bool interior = row >= 0 && column >= 0 && row + tile <= s.in_height && column + tile <= s.in_width;
  const int64_t whole = s.in_channels / lanes * lanes, rest = s.in_channels - whole;
  if (interior) {
    const float* corner = image + (row * s.in_width + column) * s.in_channels;
    const int64_t line = s.in_width * s.in_channels, pixel = s.in_channels;
    for (int64_t c = 0; c < whole; c += lanes) {
      const auto made = way.at(c);
      use(c, [&](int at) __attribute__((always_inline)) {
        const float* from = corner + at / tile * line + at % tile * pixel + c;
        if (at % tile >= tile - F::step) __builtin_prefetch(from + F::step * pixel);  // new in the tile beside this one
        return made(load(from));
      });
    }
    if (rest == 0) return;
  }
  const PixelPointers<tile> pixels(image, s.in_height, s.in_width, s.in_channels, row, column, zeros);
  const auto read = [&](int64_t c, auto part) __attribute__((always_inline)) {
    const auto made = way.at(c);
    use(c, [&](int at) __attribute__((always_inline)) {
      const Vec x = made(load(pixels.at[at] + c, part));
      if constexpr (!Way::changes) return x;
      const IVec inside = IVec{} - int(pixels.at[at] != zeros);  // all bits or none, without a jump
      return Vec(IVec(x) & inside);
    });
  };
  for (int64_t c = interior ? whole : 0; c < whole; c += lanes) read(c, Whole{});
  if (rest > 0) read(whole, First{int(rest)});
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd
