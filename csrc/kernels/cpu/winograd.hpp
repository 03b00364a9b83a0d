// Winograd's F(4×4, 3×3), F(2×2, 5×5) and F(2×2, 3×3): the transforms, and the geometry of tiles.
//
// A tile of 4×4 outputs of a 3×3 filter, or of 2×2 outputs of a 5×5 filter, comes from a 6×6 tile of the
// input by 36 multiplications a channel pair instead of 144 or 100:  Y = Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A
// (Lavin and Gray 2015, arXiv:1509.09308). The interpolation points are 0, ±5/8, ±3/2, ∞: half the
// rounding error of the textbook's 0, ±1, ±2, ∞ (relative RMS error 1.2e-6 against 2.4e-6 at 256
// channels). On the same points both sizes have the same input transform and the same products.
//
// 2×2 outputs of a 3×3 filter, on the points 0, ±1, ∞, take 16 multiplications instead of 36, and transformed weights
// less than twice the weights: for maps so small that the weights' way from memory is what counts.
//
// The weight gradient is F(3×3, 4×4) or F(5×5, 2×2) on these points: the tile of the output's gradient
// takes the place of the filter.
#pragma once
#include "../conv.hpp"
#include "../dispatch.hpp"
#include "gemm.hpp"
#include "place.hpp"
#include "reading.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd {

// F(outputs×outputs, taps×taps), from tile×tile pixels.
template <int outputs_, int taps_>
struct Size {
  static constexpr int outputs = outputs_, taps = taps_, tile = outputs + taps - 1, positions = tile * tile;
};
using F4x3 = Size<4, 3>;
using F2x5 = Size<2, 5>;
using F2x3 = Size<2, 3>;

inline constexpr float p1 = 5.0f / 8, p2 = 3.0f / 2;  // the points ±p1, ±p2
inline constexpr float s1 = p1 * p1, s2 = p2 * p2;    // their squares
inline constexpr float scale0 = 1 / (s1 * s2);        // 1 / Π (point - other points)
inline constexpr float scale1 = 1 / (2 * s1 * (s1 - s2));
inline constexpr float scale2 = 1 / (2 * s2 * (s2 - s1));

// The one-dimensional transforms; `in` and `out` are walked with the given strides.

// Bᵀ d: a tile's values, six or four. No sum of two products: a compiler may fuse either with the sum, and the result's
// last bit would depend on what else is done here.
template <int tile>
PYCONVOPT_INLINE void transform_input(const Vec* in, int step, Vec* out, int out_step) {
  if constexpr (tile == 4) {
    out[0] = in[0] - in[2 * step];
    out[out_step] = in[2 * step] + in[step];
    out[2 * out_step] = in[2 * step] - in[step];
    out[3 * out_step] = in[3 * step] - in[step];
    return;
  }
  const Vec d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step], d4 = in[4 * step], d5 = in[5 * step];
  out[0] = (d4 - d2 * (s1 + s2)) + d0 * (s1 * s2);
  const Vec even1 = d4 - d2 * s2, odd1 = (d3 - d1 * s2) * p1;
  const Vec even2 = d4 - d2 * s1, odd2 = (d3 - d1 * s1) * p2;
  out[out_step] = even1 + odd1;
  out[2 * out_step] = even1 - odd1;
  out[3 * out_step] = even2 + odd2;
  out[4 * out_step] = even2 - odd2;
  out[5 * out_step] = (d5 - d3 * (s1 + s2)) + d1 * (s1 * s2);
}

// A polynomial with n coefficients at 0, ±p1, ±p2 and ∞: six values, the pairs of points scaled.
template <int n>
PYCONVOPT_INLINE void evaluate(const Vec* in, int step, Vec* out, int out_step, float at0, float at1, float at2) {
  constexpr int last_even = (n - 1) / 2 * 2, last_odd = n / 2 * 2 - 1;
  out[0] = in[0] * at0;
  const auto pair = [&](float point, float scale, Vec* values) __attribute__((always_inline)) {
    Vec even = in[last_even * step], odd = in[last_odd * step];
#pragma GCC unroll 2
    for (int k = last_even - 2; k >= 0; k -= 2) even = in[k * step] + even * (point * point);
#pragma GCC unroll 2
    for (int k = last_odd - 2; k >= 0; k -= 2) odd = in[k * step] + odd * (point * point);
    even = even * scale;
    odd = odd * (point * scale);
    values[0] = even + odd;
    values[out_step] = even - odd;
  };
  pair(p1, at1, out + out_step);
  pair(p2, at2, out + 3 * out_step);
  out[5 * out_step] = in[(n - 1) * step];
}

// G g: n filter values, or a row of the output's gradient in the filter's place, to a tile's six or four.
template <int n, int tile>
PYCONVOPT_INLINE void transform_filter(const Vec* in, int step, Vec* out, int out_step) {
  if constexpr (tile == 6) return evaluate<n>(in, step, out, out_step, scale0, scale1, scale2);
  static_assert(tile == 6 || n == 3);
  const Vec even = (in[0] + in[2 * step]) * 0.5f, odd = in[step] * 0.5f;
  out[0] = in[0];
  out[out_step] = even + odd;
  out[2 * out_step] = even - odd;
  out[3 * out_step] = in[2 * step];
}

// A g for the transposed algorithm: a row of the output's gradient at the six points.
template <int n>
PYCONVOPT_INLINE void transform_gradient(const Vec* in, int step, Vec* out, int out_step) {
  evaluate<n>(in, step, out, out_step, 1, 1, 1);
}

// Aᵀ m: a tile's six or four products to n results.
template <int n, int tile>
PYCONVOPT_INLINE void transform_output(const Vec* in, int step, Vec* out, int out_step) {
  if constexpr (tile == 4) {
    static_assert(n == 2);
    out[0] = in[0] + (in[step] + in[2 * step]);
    out[out_step] = (in[step] - in[2 * step]) + in[3 * step];
    return;
  }
  const Vec sum1 = in[step] + in[2 * step], difference1 = in[step] - in[2 * step];
  const Vec sum2 = in[3 * step] + in[4 * step], difference2 = in[3 * step] - in[4 * step];
  out[0] = in[0] + sum1 + sum2;
  out[out_step] = difference1 * p1 + difference2 * p2;
  if constexpr (n > 2) out[2 * out_step] = sum1 * s1 + sum2 * s2;
  if constexpr (n > 3) out[3 * out_step] = difference1 * (s1 * p1) + difference2 * (s2 * p2);
  if constexpr (n > 4) out[4 * out_step] = sum1 * (s1 * s1) + sum2 * (s2 * s2);
  out[(n - 1) * out_step] += in[5 * step];
}

// B m: six products to the six inputs they came from, the transpose of `transform_input`.
PYCONVOPT_INLINE void transform_scatter(const Vec* in, int step, Vec* out, int out_step) {
  const Vec m0 = in[0], m5 = in[5 * step];
  const Vec sum1 = in[step] + in[2 * step], difference1 = (in[step] - in[2 * step]) * p1;
  const Vec sum2 = in[3 * step] + in[4 * step], difference2 = (in[3 * step] - in[4 * step]) * p2;
  out[0] = m0 * (s1 * s2);
  out[out_step] = m5 * (s1 * s2) - difference1 * s2 - difference2 * s1;
  out[2 * out_step] = -(m0 * (s1 + s2)) - sum1 * s2 - sum2 * s1;
  out[3 * out_step] = difference1 + difference2 - m5 * (s1 + s2);
  out[4 * out_step] = m0 + sum1 + sum2;
  out[5 * out_step] = m5;
}

// The tiles of a feature map, numbered image by image, row by row.
template <class F>
struct Tiles {
  int64_t rows, columns, count;
  explicit Tiles(const ConvShape& s)
      : rows((s.out_height() + F::outputs - 1) / F::outputs),
        columns((s.out_width() + F::outputs - 1) / F::outputs),
        count(s.batch * rows * columns) {}
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

// The convolutions that Winograd takes: taps×taps, stride 1, and channels enough to fill vectors.
template <class F>
bool takes_shape(const ConvShape& s) {
  return winograd_enabled() && s.kernel_height == F::taps && s.kernel_width == F::taps && s.stride_height == 1 &&
         s.stride_width == 1 && s.dilation_height == 1 && s.dilation_width == 1 && s.groups == 1 &&
         s.in_channels >= 16 && s.out_channels >= 16 && s.out_height() >= 2 && s.out_width() >= 2;
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

template <class F>
inline constexpr const char* why = "5x5, stride 1: Winograd multiplies up to 2.8 times less";
template <>
inline constexpr const char* why<F4x3> = "3x3, stride 1: Winograd multiplies 2.25 to 4 times less";
template <>
inline constexpr const char* why<F2x3> = "3x3, stride 1, few pixels: Winograd multiplies up to 2.25 times less";

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
template <int tile, class Fetch>
PYCONVOPT_INLINE void input_tile(Fetch fetch, float* out, int64_t position_step) {
  Vec columns[tile * tile];
#pragma GCC unroll 6
  for (int j = 0; j < tile; ++j) {
    Vec d[tile];
#pragma GCC unroll 6
    for (int i = 0; i < tile; ++i) d[i] = fetch(i * tile + j);
    transform_input<tile>(d, 1, columns + j, tile);
  }
#pragma GCC unroll 6
  for (int i = 0; i < tile; ++i) {
    Vec v[tile];
    transform_input<tile>(columns + i * tile, 1, v, 1);
#pragma GCC unroll 6
    for (int j = 0; j < tile; ++j) store(out + (i * tile + j) * position_step, v[j]);
  }
}

// use(c, fetch) for each vector of channels of a tile's input, where fetch(at) gives pixel number `at` of the tile from
// channel c on, read in the given way. Tiles inside the map, most of them, need no list of pointers.
template <int tile, class Way, class Use>
PYCONVOPT_INLINE void for_each_input_vector(const ConvShape& s, const float* input, const TilePlace& place,
                                            const float* zeros, const Way& way, Use use) {
  const int64_t row = place.row - s.padding_height, column = place.column - s.padding_width;
  const float* image = input + place.image * s.in_height * s.in_width * s.in_channels;
  const bool interior = row >= 0 && column >= 0 && row + tile <= s.in_height && column + tile <= s.in_width;
  const int64_t whole = s.in_channels / lanes * lanes, rest = s.in_channels - whole;
  if (interior) {
    const float* corner = image + (row * s.in_width + column) * s.in_channels;
    const int64_t line = s.in_width * s.in_channels, pixel = s.in_channels;
    for (int64_t c = 0; c < whole; c += lanes) {
      const auto made = way.at(c);
      use(c, [&](int at) __attribute__((always_inline)) {
        return made(load(corner + at / tile * line + at % tile * pixel + c));
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
