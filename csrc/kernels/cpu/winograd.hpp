// Winograd F(4×4, 3×3): the transforms, and the geometry of tiles.
//
// A 4×4 tile of the output comes from a 6×6 tile of the input by 36 multiplications a channel pair
// instead of 144:  Y = Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A  (Lavin and Gray 2015, arXiv:1509.09308). The
// interpolation points are 0, ±5/8, ±3/2, ∞: half the rounding error of the textbook's 0, ±1, ±2, ∞
// (relative RMS error 1.2e-6 against 2.4e-6 at 256 channels).
//
// The weight gradient is F(3×3, 4×4) on the same points: the 4×4 tile of the output's gradient
// takes the place of the filter, the input transform is the same.
#pragma once
#include "../conv.hpp"
#include "../dispatch.hpp"
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd {

inline constexpr int tile = 6, output_tile = 4, positions = tile * tile;

inline constexpr float p1 = 5.0f / 8, p2 = 3.0f / 2;  // the points ±p1, ±p2
inline constexpr float s1 = p1 * p1, s2 = p2 * p2;    // their squares
inline constexpr float scale0 = 1 / (s1 * s2);        // 1 / Π (point - other points)
inline constexpr float scale1 = 1 / (2 * s1 * (s1 - s2));
inline constexpr float scale2 = 1 / (2 * s2 * (s2 - s1));

// The one-dimensional transforms; `in` and `out` are walked with the given strides.

// Bᵀ d: six values to six.
PYCONVOPT_INLINE void transform_input(const Vec* in, int step, Vec* out, int out_step) {
  const Vec d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step], d4 = in[4 * step], d5 = in[5 * step];
  out[0] = d4 + (d0 * (s1 * s2) - d2 * (s1 + s2));
  const Vec even1 = d4 - d2 * s2, odd1 = (d3 - d1 * s2) * p1;
  const Vec even2 = d4 - d2 * s1, odd2 = (d3 - d1 * s1) * p2;
  out[out_step] = even1 + odd1;
  out[2 * out_step] = even1 - odd1;
  out[3 * out_step] = even2 + odd2;
  out[4 * out_step] = even2 - odd2;
  out[5 * out_step] = d5 + (d1 * (s1 * s2) - d3 * (s1 + s2));
}

// G g: three filter values to six.
PYCONVOPT_INLINE void transform_filter3(const Vec* in, int step, Vec* out, int out_step) {
  const Vec g0 = in[0], g1 = in[step], g2 = in[2 * step];
  out[0] = g0 * scale0;
  const Vec even1 = (g0 + g2 * s1) * scale1, odd1 = g1 * (p1 * scale1);
  const Vec even2 = (g0 + g2 * s2) * scale2, odd2 = g1 * (p2 * scale2);
  out[out_step] = even1 + odd1;
  out[2 * out_step] = even1 - odd1;
  out[3 * out_step] = even2 + odd2;
  out[4 * out_step] = even2 - odd2;
  out[5 * out_step] = g2;
}

// G g for F(3, 4): four values (a row of the output's gradient) to six.
PYCONVOPT_INLINE void transform_filter4(const Vec* in, int step, Vec* out, int out_step) {
  const Vec g0 = in[0], g1 = in[step], g2 = in[2 * step], g3 = in[3 * step];
  out[0] = g0 * scale0;
  const Vec even1 = (g0 + g2 * s1) * scale1, odd1 = (g1 + g3 * s1) * (p1 * scale1);
  const Vec even2 = (g0 + g2 * s2) * scale2, odd2 = (g1 + g3 * s2) * (p2 * scale2);
  out[out_step] = even1 + odd1;
  out[2 * out_step] = even1 - odd1;
  out[3 * out_step] = even2 + odd2;
  out[4 * out_step] = even2 - odd2;
  out[5 * out_step] = g3;
}

// Aᵀ m: six products to four outputs.
PYCONVOPT_INLINE void transform_output4(const Vec* in, int step, Vec* out, int out_step) {
  const Vec sum1 = in[step] + in[2 * step], difference1 = in[step] - in[2 * step];
  const Vec sum2 = in[3 * step] + in[4 * step], difference2 = in[3 * step] - in[4 * step];
  out[0] = in[0] + sum1 + sum2;
  out[out_step] = difference1 * p1 + difference2 * p2;
  out[2 * out_step] = sum1 * s1 + sum2 * s2;
  out[3 * out_step] = in[5 * step] + difference1 * (s1 * p1) + difference2 * (s2 * p2);
}

// Aᵀ m for F(3, 4): six products to three outputs.
PYCONVOPT_INLINE void transform_output3(const Vec* in, int step, Vec* out, int out_step) {
  const Vec sum1 = in[step] + in[2 * step], difference1 = in[step] - in[2 * step];
  const Vec sum2 = in[3 * step] + in[4 * step], difference2 = in[3 * step] - in[4 * step];
  out[0] = in[0] + sum1 + sum2;
  out[out_step] = difference1 * p1 + difference2 * p2;
  out[2 * out_step] = in[5 * step] + sum1 * s1 + sum2 * s2;
}

// A g for the transposed algorithm: four values (a row of the output's gradient) at the six points.
PYCONVOPT_INLINE void transform_gradient4(const Vec* in, int step, Vec* out, int out_step) {
  const Vec g0 = in[0], g1 = in[step], g2 = in[2 * step], g3 = in[3 * step];
  out[0] = g0;
  const Vec even1 = g0 + g2 * s1, odd1 = (g1 + g3 * s1) * p1;
  const Vec even2 = g0 + g2 * s2, odd2 = (g1 + g3 * s2) * p2;
  out[out_step] = even1 + odd1;
  out[2 * out_step] = even1 - odd1;
  out[3 * out_step] = even2 + odd2;
  out[4 * out_step] = even2 - odd2;
  out[5 * out_step] = g3;
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

// The tiles of a feature map: 4×4 outputs each, numbered image by image, row by row.
struct Tiles {
  int64_t rows, columns, count;
  explicit Tiles(const ConvShape& s)
      : rows((s.out_height() + output_tile - 1) / output_tile),
        columns((s.out_width() + output_tile - 1) / output_tile),
        count(s.batch * rows * columns) {}
};

struct TilePlace {
  int64_t image, row, column;  // row and column of the tile's first output
  TilePlace(const Tiles& tiles, int64_t index)
      : image(index / (tiles.rows * tiles.columns)),
        row(index / tiles.columns % tiles.rows * output_tile),
        column(index % tiles.columns * output_tile) {}
};

// The convolutions that Winograd takes: 3×3, stride 1, and channels enough to fill vectors.
inline bool takes_shape(const ConvShape& s) {
  return winograd_enabled() && s.kernel_height == 3 && s.kernel_width == 3 && s.stride_height == 1 &&
         s.stride_width == 1 && s.dilation_height == 1 && s.dilation_width == 1 && s.groups == 1 &&
         s.in_channels >= 16 && s.out_channels >= 16 && s.out_height() >= 2 && s.out_width() >= 2;
}

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

// Bᵀ d B of one 6×6 tile for `lanes` channels; the 36 results go to out + position·position_step.
template <class Fetch>
PYCONVOPT_INLINE void input_tile(Fetch fetch, float* out, int64_t position_step) {
  Vec columns[positions];
#pragma GCC unroll 6
  for (int j = 0; j < tile; ++j) {
    Vec d[tile];
#pragma GCC unroll 6
    for (int i = 0; i < tile; ++i) d[i] = fetch(i * tile + j);
    transform_input(d, 1, columns + j, tile);
  }
#pragma GCC unroll 6
  for (int i = 0; i < tile; ++i) {
    Vec v[tile];
    transform_input(columns + i * tile, 1, v, 1);
#pragma GCC unroll 6
    for (int j = 0; j < tile; ++j) store(out + (i * tile + j) * position_step, v[j]);
  }
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd
