// Data gradient of a 3×3 or 5×5 convolution by the transposed Winograd algorithm.  (The method: winograd.hpp.)
//
// Transposing the forward algorithm with respect to its input gives  dX = B [(G w Gᵀ) ∘ (A dY Aᵀ)] Bᵀ:
// each tile of the output's gradient adds to the 6×6 pixels of the input that it came from. The
// tiles are those of the output; without padding it is smaller than the input (13 → 11 pixels: 9 tiles
// an image instead of 16; 5 → 3: 1 instead of 4), and so is the number of products. Where padding
// keeps the size the other way, gathering (winograd.cpp), writes less and is taken.
//
// The gradient may be that of a 2×2-pooled output (winograd_gradient.hpp).
//
// A thread takes whole images and sums overlapping tiles in a small map of its own, in their order.
#include <omp.h>

#include "../arena.hpp"
#include "winograd_gradient.hpp"
#include "winograd_weights.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace winograd {
namespace {

constexpr int tile = F4x3::tile, positions = F4x3::positions;  // and F2x5's

// A dY Aᵀ of one tile for all channels of the output.
template <class GradientTile>
void transform_gradient_tile(const ConvDataGradient& p, const Layout& layout, const TilePlace& place, float* v,
                             int64_t position_step, const float* zeros) {
  const GradientTile gradient(p, place, zeros);
  const auto transform = [](const Vec* in, int step, Vec* out, int out_step) __attribute__((always_inline)) {
    SixPoints::spread<GradientTile::side>(in, step, out, out_step);
  };
  for (int64_t k = 0; k < layout.channels; k += lanes)
    transform_tile<SixPoints>(gradient, k, p.shape.out_channels - k, transform, v + k, position_step);
}

// Adds B M Bᵀ of one tile to the map of sums, at the tile's first pixel.
void add_tile(const float* m, int64_t position_step, float* sums, int64_t line) {
  for (int half = 0; half < panel; half += lanes) {
    Vec half_way[positions];
#pragma GCC unroll 6
    for (int j = 0; j < tile; ++j) {
      Vec column[tile];
#pragma GCC unroll 6
      for (int i = 0; i < tile; ++i) column[i] = load(m + (i * tile + j) * position_step + half);
      SixPoints::scatter(column, 1, half_way + j, tile);
    }
#pragma GCC unroll 6
    for (int i = 0; i < tile; ++i) {
      Vec d[tile];
      SixPoints::scatter(half_way + i * tile, 1, d, 1);
#pragma GCC unroll 6
      for (int j = 0; j < tile; ++j) {
        float* at = sums + i * line + j * panel + half;
        store(at, load(at) + d[j]);
      }
    }
  }
}

template <class F, class GradientTile>
void scatter_from(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  const Tiles<F> tiles(s);
  const int64_t tiles_an_image = tiles.rows * tiles.columns;
  // The weights seen from the output: its channels are the reduced ones.
  ConvForward weights{.shape = s, .input = nullptr, .weight = p.weight, .weight_strides = p.weight_strides};
  weights.shape.in_channels = s.out_channels;
  weights.shape.out_channels = s.in_channels;
  weights.weight_strides.out_channel = p.weight_strides.in_channel;
  weights.weight_strides.in_channel = p.weight_strides.out_channel;
  const Layout layout(weights.shape, F{});

  const int threads = omp_get_max_threads();
  const int64_t fit = greatest(1, (int64_t(256) << 10) / int64_t(sizeof(float)) / (positions * layout.channels));
  const int64_t images = least(greatest(1, fit / tiles_an_image), (s.batch + threads - 1) / threads);  // a block
  const int64_t blocks = (s.batch + images - 1) / images, most = images * tiles_an_image;
  const int64_t v_step = layout.position_step(most), m_step = most * panel + 16;
  const int64_t line = (tiles.columns * F::outputs + F::taps - 1) * panel;
  const int64_t map = (tiles.rows * F::outputs + F::taps - 1) * line;
  Workspace space(Workspace::bytes_for(layout.panels * layout.panel_weights) + Workspace::bytes_for(layout.channels) +
                  Workspace::bytes_for(threads * positions * v_step) +
                  Workspace::bytes_for(threads * positions * m_step) + Workspace::bytes_for(threads * map));
  float* u = space.floats(layout.panels * layout.panel_weights);
  float* zeros = space.floats(layout.channels);
  float* all_v = space.floats(threads * positions * v_step);
  float* all_m = space.floats(threads * positions * m_step);
  float* all_maps = space.floats(threads * map);
  for (int64_t c = 0; c < layout.channels; ++c) zeros[c] = 0;

#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* v = all_v + omp_get_thread_num() * positions * v_step;
    float* m = all_m + omp_get_thread_num() * positions * m_step;
    float* sums = all_maps + omp_get_thread_num() * map;
#pragma omp for collapse(2) schedule(static)
    for (int64_t c = 0; c < layout.panels; ++c)
      for (int64_t k = 0; k < layout.channels; k += lanes)
        transform_weights<F>(weights, layout.u_step, c, k, u + c * layout.panel_weights);
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * images, last = least(first + images, s.batch);
      const int64_t count = (last - first) * tiles_an_image;
      for (int64_t t = 0; t < count; ++t)
        transform_gradient_tile<GradientTile>(p, layout, TilePlace(tiles, first * tiles_an_image + t),
                                              v + t * layout.channels, v_step, zeros);
      for (int64_t c = 0; c < layout.panels; ++c) {
        for (int at = 0; at < positions; ++at)
          product(v + at * v_step, layout.channels, u + c * layout.panel_weights + at * layout.u_step, layout.channels,
                  m + at * m_step, panel, count);
        for (int64_t n = first; n < last; ++n) {
          for (int64_t i = 0; i < map; i += lanes) store(sums + i, Vec{});
          for (int64_t t = 0; t < tiles_an_image; ++t) {
            const TilePlace place(tiles, t);
            add_tile(m + ((n - first) * tiles_an_image + t) * panel, m_step,
                     sums + place.row * line + place.column * panel, line);
          }
          for (int64_t y = 0; y < s.in_height; ++y)
            for (int64_t x = 0; x < s.in_width; ++x)
              for (int half = 0; half < panel; half += lanes)
                if (const int64_t at = c * panel + half; at < s.in_channels)
                  store_channels(p.input_gradient + ((n * s.in_height + y) * s.in_width + x) * s.in_channels + at,
                                 load(sums + (y + s.padding_height) * line + (x + s.padding_width) * panel + half),
                                 s.in_channels - at);
        }
      }
    }
  }
}

template <class F>
void scatter(const ConvDataGradient& p) {
  if (p.argmax) scatter_from<F, PooledTile<F>>(p);
  else scatter_from<F, MapTile<F>>(p);
}

// Where the output has clearly fewer tiles than the input, and a map of sums fits a cache.
template <class F>
bool scatter_applies(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  if (!takes_shape<F>(s) || !fills_panels<F>(s.in_channels)) return false;
  const Tiles<F> tiles(s);
  const int64_t gathered = (s.in_height + F::outputs - 1) / F::outputs * ((s.in_width + F::outputs - 1) / F::outputs);
  return s.padding_height == 0 && s.padding_width == 0 && tiles.rows * tiles.columns <= 64 &&
         5 * tiles.rows * tiles.columns <= 4 * gathered;
}

}  // namespace
}  // namespace winograd

constexpr const char* why = "without padding: Winograd transposed, over the output's fewer tiles";
extern const Kernel<ConvDataGradient> winograd_f4x3_scatter, winograd_f2x5_scatter;
const Kernel<ConvDataGradient> winograd_f4x3_scatter{
    "winograd_f4x3_scatter", why, winograd::scatter_applies<winograd::F4x3>, winograd::scatter<winograd::F4x3>};
const Kernel<ConvDataGradient> winograd_f2x5_scatter{
    "winograd_f2x5_scatter", why, winograd::scatter_applies<winograd::F2x5>, winograd::scatter<winograd::F2x5>};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
