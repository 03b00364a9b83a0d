// Winograd's convolutions, forward and data gradient.  (The method: winograd.hpp.)
//
// Activations are NHWC, so channels are the vector axis and the transforms need no transposes.
//   U[panel][36][C][panel width]   weights, transformed; 36 factors, or 16
//   V[36][T][C]                    a block of T input tiles, transformed; 36 positions, or 16, or 81
//   M[36][T][panel width]          their products for one panel of output channels
// For each panel the products are followed at once by the output transform, bias, activation
// and pooling, so M stays in the first- or second-level cache and V in the second.
//
// Two orders of the same work. Few weights: U is made once, threads take blocks of tiles. Many
// weights and few tiles (the late layers): V is made once for a large block of tiles, threads take
// panels, and each transforms its own weights just before using them, so that U, four times the
// weights, never travels to memory and back.
#include <omp.h>

#include "../arena.hpp"
#include "../processor.hpp"
#include "activated.hpp"
#include "gemm.hpp"
#include "moments.hpp"
#include "pool2x2.hpp"
#include "winograd.hpp"
#include "winograd_weights.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace winograd {
namespace {

// A forward pass, or a data gradient as one, whose result's size does not follow from the shape.
struct Job : ConvForward {
  int64_t height, width;  // of the result
  explicit Job(const ConvForward& p) : ConvForward(p), height(p.shape.out_height()), width(p.shape.out_width()) {}
  Job(const ConvForward& p, int64_t height, int64_t width) : ConvForward(p), height(height), width(width) {}
};

// Bᵀ d B of a tile into a row of V.
template <class F>
void transform_tile(const Job& p, const Reading& reading, const TilePlace& place, float* v, int64_t position_step,
                    const float* zeros) {
  reading.with([&](auto way) {
    for_each_input_vector<F>(p.shape, p.input, place, zeros, way,
                             [&](int64_t c, auto fetch)
                                 __attribute__((always_inline)) { input_tile<F>(fetch, v + c, position_step); });
  });
}

// 2×2 maxima of a tile of outputs; rows and columns of windows that lie inside the map.
template <int side>
PYCONVOPT_INLINE void store_pooled(const Job& p, const Vec* y, const TilePlace& place, int64_t k, int64_t left) {
  const int64_t height = p.height / 2, width = p.width / 2;
  for (int i = 0; i < side / 2 && place.row / 2 + i < height; ++i)
    for (int j = 0; j < side / 2 && place.column / 2 + j < width; ++j) {
      const Vec* window = y + i * 2 * side + j * 2;
      const Vec pixels[4] = {window[0], window[1], window[side], window[side + 1]};
      const int64_t at =
          ((place.image * height + place.row / 2 + i) * width + place.column / 2 + j) * p.shape.out_channels + k;
      store_window(pixels, p.activation, p.output + at, p.argmax + at, left);
    }
}

// Outputs of a tile that lie inside the map.
template <class F>
struct Inside {
  int64_t rows, columns;
  Inside(const Job& p, const TilePlace& place)
      : rows(least(F::outputs, p.height - place.row)), columns(least(F::outputs, p.width - place.column)) {}
  int64_t count() const { return rows * columns; }
};

// Adds a tile's outputs to its piece of the statistics.
template <int side>
PYCONVOPT_INLINE void add_tile(const Vec* y, int64_t rows, int64_t columns, const Piece& piece, int64_t channels,
                               int64_t k, int64_t left) {
  if (rows * columns == side * side) return add_moments(y, side * side, piece, channels, k, left);
  Vec inside[side * side];
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) inside[i * columns + j] = y[i * side + j];
  add_moments(inside, rows * columns, piece, channels, k, left);
}

// Adds the residual, applies the activation and writes a tile's outputs from the float `first` of the map on.
template <int side>
PYCONVOPT_INLINE void store_inside(const Job& p, const Vec* y, int64_t first, int64_t rows, int64_t columns,
                                   int64_t left) {
  const int64_t pixel = p.shape.out_channels, line = p.width * pixel;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t at = first + i * line + j * pixel;
      Vec value = y[i * side + j];
      if (p.residual) value += load_channels(p.residual + at, left);
      store_channels(p.output + at, activated(p.activation, value), left);
    }
}

// The same where the whole tile and vector lie inside: nothing is asked between the stores.
template <int side>
PYCONVOPT_INLINE void store_whole(const Job& p, Vec* y, int64_t first) {
  const int64_t pixel = p.shape.out_channels, line = p.width * pixel;
  const auto each = [&](auto body) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < side; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < side; ++j) body(y[i * side + j], first + i * line + j * pixel);
  };
  if (p.residual) each([&](Vec& value, int64_t at) __attribute__((always_inline)) { value += load(p.residual + at); });
  with_activation(p.activation, [&]<Activation activation>() __attribute__((always_inline)) {
    each([&](Vec value, int64_t at) __attribute__((always_inline)) {
      __builtin_prefetch(p.output + at + side * pixel, 1);  // of the tile beside this one
      store(p.output + at, activated<activation>(value));
    });
  });
}

// Aᵀ M A of one tile, bias, activation, pooling; writes what lies inside the map. `piece` without a line: no
// statistics are wanted.
template <class F>
void transform_outputs(const Job& p, const TilePlace& place, const float* m, int64_t position_step, int64_t panel_index,
                       const Piece& piece) {
  using Points = typename F::Points;
  constexpr int side = F::outputs, values = F::values;
  const ConvShape& s = p.shape;
  const auto [rows, columns] = Inside<F>(p, place);
  for (int half = 0; half < 2; ++half) {
    const int64_t k = panel_index * panel + half * lanes, left = s.out_channels - k;
    if (left <= 0) return;
    Vec half_way[side * values], y[side * side];
#pragma GCC unroll 9
    for (int j = 0; j < values; ++j) {
      Vec column[values];
#pragma GCC unroll 9
      for (int i = 0; i < values; ++i) column[i] = load(m + Points::place(i, j) * position_step + half * lanes);
      Points::template output<side>(column, 1, half_way + j, values);
    }
    const Vec bias = p.bias ? load_channels(p.bias + k, left) : Vec{};
#pragma GCC unroll 8
    for (int i = 0; i < side; ++i) {
      Points::template output<side>(half_way + i * values, 1, y + i * side, 1);
#pragma GCC unroll 8
      for (int j = 0; j < side; ++j) y[i * side + j] += bias;
    }
    if (p.pool) {
      store_pooled<side>(p, y, place, k, left);
      continue;
    }
    if (piece.line) add_tile<side>(y, rows, columns, piece, s.out_channels, k, left);
    const int64_t first = ((place.image * p.height + place.row) * p.width + place.column) * s.out_channels + k;
    if (rows == side && columns == side && left >= lanes) store_whole<side>(p, y, first);
    else store_inside<side>(p, y, first, rows, columns, left);
  }
}

// Products of `count` tiles and some channels for one panel of output channels, whose weights are u_step apart.
// `next_u`: the panel after it, where U lies behind the second-level cache: what comes next is fetched from there. Or
// null, and with it whether to add to M.
template <class F>
void multiply_panel(const Layout& layout, int64_t count, const float* v, int64_t v_step, const float* panel_u,
                    int64_t u_step, int64_t channels, const float* next_u, bool add, float* m) {
  const int64_t m_step = count * panel + 16;
  const auto weights = [&](int at) { return panel_u + F::Points::factor_of(at) * u_step; };
  for (int at = 0; at < F::positions; ++at) {
    const float* tiles = v + at * v_step;
    const bool last = at == F::positions - 1;
    Next next;
    if (next_u) next = {last ? v : tiles + v_step, last ? next_u : weights(at + 1)};
    if (add) product<true>(tiles, layout.channels, weights(at), channels, m + at * m_step, panel, count, next);
    else product(tiles, layout.channels, weights(at), channels, m + at * m_step, panel, count, next);
  }
}

// Whether U is too large to stay in a second-level cache.
bool is_far(const Layout& layout) { return layout.panels * layout.panel_weights > int64_t(1) << 18; }

// Tiles whose V takes so many bytes, in whole register blocks.
int64_t tiles_in(int64_t bytes, const Layout& layout) {
  const int64_t fit = bytes / int64_t(sizeof(float)) / (layout.positions * layout.channels);
  return greatest(1, fit / product_rows) * product_rows;
}

constexpr int64_t small_v = int64_t(256) << 10;  // bytes that fit in any second-level cache

// Tiles of a block of V. Each block reads all of U: where that lies behind the second-level cache, the blocks are as
// large as the cache allows.
int64_t block_tiles(const Layout& layout) {
  return tiles_in(is_far(layout) ? greatest(small_v, second_level_cache() / 4) : small_v, layout);
}

// Tiles of a piece of the statistics, whatever the number of threads and the cache.
template <class F>
int64_t piece_tiles(const Layout& layout, const Tiles<F>& tiles) {
  return least(tiles_in(small_v, layout), (tiles.count + 7) / 8);
}

template <class F>
int64_t moment_pieces(const ConvForward& p) {
  const Tiles<F> tiles(p.shape);
  const int64_t each = piece_tiles(Layout(p.shape, F{}), tiles);
  return (tiles.count + each - 1) / each;
}

// Output transforms of `count` tiles, from `first`. Statistics: a panel's tiles come in their order.
template <class F>
void finish_panel(const Job& p, const Layout& layout, const Tiles<F>& tiles, int64_t first, int64_t count,
                  int64_t panel_index, const float* m) {
  const int64_t each = piece_tiles(layout, tiles), channels = p.shape.out_channels, line = moment_line(channels);
  TilePlace place(tiles, first);
  int64_t in_piece = 0;  // tiles of the piece that are finished
  Piece piece{nullptr, 0};
  if (p.moments) {
    in_piece = first % each;
    piece.line = p.moments + first / each * line;
    for (int64_t t = first - in_piece; t < first; ++t) piece.before += Inside<F>(p, TilePlace(tiles, t)).count();
  }
  for (int64_t t = 0; t < count; ++t, place.advance(tiles)) {
    if (p.moments && in_piece == each) {
      piece = {piece.line + line, 0};
      in_piece = 0;
    }
    transform_outputs<F>(p, place, m + t * panel, count * panel + 16, panel_index, piece);
    if (!p.moments) continue;
    ++in_piece;
    piece.before += Inside<F>(p, place).count();
    if (panel_index == 0) piece.line[2 * channels] = float(piece.before);
  }
}

// U as a whole, by all threads of the region it is called in.
template <class F>
void transform_all(const ConvForward& p, const Layout& layout, float* u) {
#pragma omp for collapse(2) schedule(static)
  for (int64_t k = 0; k < layout.panels; ++k)
    for (int64_t c = 0; c < layout.channels; c += lanes)
      transform_weights<F>(p, layout.u_step, k, c, u + k * layout.panel_weights);
}

template <class F>
int64_t transformed_floats(const ConvForward& p) {
  const Layout layout(p.shape, F{});
  return layout.panels * layout.panel_weights;
}

template <class F>
void transform(const ConvForward& p, float* u) {
  const Layout layout(p.shape, F{});
#pragma omp parallel
  transform_all<F>(p, layout, u);
}

template <class F>
void few_weights(const Job& p, const Layout& layout, const Tiles<F>& tiles) {
  constexpr int positions = F::positions;
  const int threads = omp_get_max_threads();
  const bool far = is_far(layout);
  int64_t block = least(block_tiles(layout), (tiles.count + threads - 1) / threads);
  if (p.moments) {  // a thread takes whole pieces of the statistics
    const int64_t piece = piece_tiles(layout, tiles);
    block = far ? greatest(1, block / piece) * piece : piece;
  }
  const int64_t blocks = (tiles.count + block - 1) / block;
  const int64_t v_step = layout.position_step(block), m_size = positions * (block * panel + 16);
  const int64_t u_size = p.prepared ? 0 : layout.panels * layout.panel_weights;
  Workspace space(Workspace::bytes_for(u_size) + Workspace::bytes_for(layout.channels) +
                  threads * (Workspace::bytes_for(positions * v_step) + Workspace::bytes_for(m_size)));
  float* own = space.floats(u_size);
  const float* u = p.prepared ? p.prepared : own;
  float* zeros = space.floats(layout.channels);
  float* blocks_v = space.floats(threads * positions * v_step);
  float* blocks_m = space.floats(threads * m_size);
  for (int64_t c = 0; c < layout.channels; ++c) zeros[c] = 0;
  const Reading reading(p.norm, p.shape.in_channels);
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* v = blocks_v + omp_get_thread_num() * positions * v_step;
    float* m = blocks_m + omp_get_thread_num() * m_size;
    if (!p.prepared) transform_all<F>(p, layout, own);
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * block, count = least(block, tiles.count - first);
      TilePlace place(tiles, first);
      for (int64_t t = 0; t < count; ++t, place.advance(tiles))
        transform_tile<F>(p, reading, place, v + t * layout.channels, v_step, zeros);
      for (int64_t k = 0; k < layout.panels; ++k) {
        const float *panel_u = u + k * layout.panel_weights,
                    *next_u = k + 1 < layout.panels ? panel_u + layout.panel_weights : u;
        multiply_panel<F>(layout, count, v, v_step, panel_u, layout.u_step, layout.channels, far ? next_u : nullptr,
                          false, m);
        finish_panel(p, layout, tiles, first, count, k, m);
      }
    }
  }
}

template <class F>
void many_weights(const Job& p, const Layout& layout, const Tiles<F>& tiles) {
  constexpr int positions = F::positions;
  const int threads = omp_get_max_threads();
  const int64_t block = least(tiles.count, greatest(128, tiles_in(int64_t(10) << 20, layout)));
  const int64_t v_step = layout.position_step(block), m_size = positions * (block * panel + 16);
  // Few tiles: channels whose part of U stays in a second-level cache with M, which is added to for each part. With
  // more M itself would not stay there, and a whole panel of U goes behind it and is fetched from there.
  const bool whole = p.prepared || block > 64;
  const int64_t few =
      whole ? layout.channels : least(layout.channels, (int64_t(80) << 10) / (F::weights * panel) / lanes * lanes);
  const int64_t u_step = few * panel + 16, u_size = p.prepared ? 0 : F::weights * u_step;
  Workspace space(Workspace::bytes_for(positions * v_step) + Workspace::bytes_for(layout.channels) +
                  threads * (Workspace::bytes_for(u_size) + Workspace::bytes_for(m_size)));
  float* v = space.floats(positions * v_step);
  float* zeros = space.floats(layout.channels);
  float* all_u = space.floats(threads * u_size);
  float* all_m = space.floats(threads * m_size);
  for (int64_t c = 0; c < layout.channels; ++c) zeros[c] = 0;
  const Reading reading(p.norm, p.shape.in_channels);
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* u = all_u + omp_get_thread_num() * u_size;
    float* m = all_m + omp_get_thread_num() * m_size;
    for (int64_t first = 0; first < tiles.count; first += block) {
      const int64_t count = least(block, tiles.count - first);
#pragma omp for schedule(static)
      for (int64_t t = 0; t < count; ++t)
        transform_tile<F>(p, reading, TilePlace(tiles, first + t), v + t * layout.channels, v_step, zeros);
#pragma omp for schedule(dynamic)
      for (int64_t k = 0; k < layout.panels; ++k) {
        for (int64_t c0 = 0; c0 < layout.channels; c0 += few) {
          const int64_t channels = least(few, layout.channels - c0);
          if (!p.prepared)
            for (int64_t c = c0; c < c0 + channels; c += lanes) transform_weights<F>(p, u_step, k, c, u - c0 * panel);
          const float* weights = p.prepared ? p.prepared + k * layout.panel_weights : u;
          multiply_panel<F>(layout, count, v + c0, v_step, weights, u_step, channels, whole ? weights : nullptr, c0 > 0,
                            m);
        }
        finish_panel(p, layout, tiles, first, count, k, m);
      }
    }
  }
}

template <class F>
void run(const Job& p) {
  const Layout layout(p.shape, F{});
  const Tiles<F> tiles(p.shape.batch, p.height, p.width);
  // Below this many tiles the weights weigh more than the activations.
  if (tiles.count <= 256 && layout.panels >= 2 * omp_get_max_threads()) many_weights(p, layout, tiles);
  else few_weights(p, layout, tiles);
}

template <class F>
void forward(const ConvForward& p) {
  run<F>(Job(p));
}

// The gradient of the input is the convolution of the output's gradient with the weights flipped
// in both directions and the channels exchanged: negative strides say just that.
template <class F>
void data_gradient(const ConvDataGradient& p) {
  ConvShape s = p.shape;
  s.in_channels = p.shape.out_channels;
  s.out_channels = p.shape.in_channels;
  s.in_height = p.shape.out_height();
  s.in_width = p.shape.out_width();
  const bool strided = s.stride_height > 1;  // then a tile begins at a pixel that meets the middle tap
  s.padding_height = strided ? 0 : s.kernel_height - 1 - p.shape.padding_height;
  s.padding_width = strided ? 0 : s.kernel_width - 1 - p.shape.padding_width;
  const WeightStrides& w = p.weight_strides;
  const ConvForward as_forward{.shape = s,
                               .input = p.output_gradient,
                               .weight = p.weight + (s.kernel_height - 1) * w.row + (s.kernel_width - 1) * w.column,
                               .weight_strides = {w.in_channel, w.out_channel, -w.row, -w.column},
                               .output = p.input_gradient};
  run<F>(Job(as_forward, p.shape.in_height, p.shape.in_width));
}

// What a 3×3 convolution of stride 1 costs, in multiplications a channel pair: those of its pieces, and what is done
// with the weights, which takes as long as those of `more` pieces (their transform and their way to the processor;
// where they stay as they are they come from farther).
struct Cost {
  int64_t batch, height, width, more;
  template <class F>
  int64_t of() const {
    return Tiles<F>(batch, height, width).count * F::positions + more * F::weights;
  }
  int64_t direct() const { return (pixels() + more) * 9; }
  int64_t pixels() const { return batch * height * width; }
  template <class F>
  bool is_least() const {
    return of<F>() <= least(of<F4x3>(), of<F2x3>());
  }
};

template <class F>
bool forward_worth_it(const ConvForward& p) {
  const ConvShape& s = p.shape;
  const Cost cost{s.batch, s.out_height(), s.out_width(), p.keeps ? 16 : 10};
  return cost.is_least<F>() && (p.keeps ? cost.of<F>() <= cost.direct() : !one_tile_of_large_weights(s, cost.pixels()));
}
template <class F>
bool data_gradient_worth_it(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  const Cost cost{s.batch, s.in_height, s.in_width, 10};
  return cost.is_least<F>() && !one_tile_of_large_weights(s, cost.pixels());
}

template <class F>
bool forward_applies(const ConvForward& p) {
  const ConvShape& s = p.shape;
  if (!takes_shape<F>(s) || !fills_panels<F>(s.out_channels)) return false;
  if constexpr (F::step > F::outputs) {
    if (!strided_saves(s, p.keeps ? 16 : 40)) return false;
  }
  if (p.pool && (p.residual || p.activation > Activation::relu)) return false;
  return !p.moments || is_plain(p);
}
template <class F>
bool data_gradient_applies(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  return !p.argmax && s.padding_height < F::taps && s.padding_width < F::taps && takes_shape<F>(s) &&
         fills_panels<F>(s.in_channels);
}
bool strided_gradient_applies(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  return !p.argmax && s.padding_height == 1 && s.padding_width == 1 && takes_shape<Strided>(s) && strided_saves(s, 40);
}

template <class F>
constexpr Kernel<ConvForward> forward_kernel() {
  Kernel<ConvForward> kernel{name<F>,      why<F>,          forward_applies<F>, forward<F>, transformed_floats<F>,
                             transform<F>, moment_pieces<F>};
  if constexpr (F::taps == 3 && F::step == F::outputs) kernel.worth_it = forward_worth_it<F>;
  return kernel;
}
template <class F>
constexpr Kernel<ConvDataGradient> data_gradient_kernel(bool (*applies)(const ConvDataGradient&)) {
  Kernel<ConvDataGradient> kernel{name<F>, why<F>, applies, data_gradient<F>};
  if constexpr (F::taps == 3 && F::step == F::outputs) kernel.worth_it = data_gradient_worth_it<F>;
  return kernel;
}

}  // namespace
}  // namespace winograd

extern const Kernel<ConvForward> winograd_f4x3_forward, winograd_f2x5_forward, winograd_f2x3_forward,
    winograd_strided_forward;
constinit const Kernel<ConvForward> winograd_f4x3_forward = winograd::forward_kernel<winograd::F4x3>(),
                                    winograd_f2x5_forward = winograd::forward_kernel<winograd::F2x5>(),
                                    winograd_f2x3_forward = winograd::forward_kernel<winograd::F2x3>(),
                                    winograd_strided_forward = winograd::forward_kernel<winograd::Strided>();
extern const Kernel<ConvDataGradient> winograd_f4x3_data_gradient, winograd_f2x5_data_gradient,
    winograd_f2x3_data_gradient, winograd_strided_data_gradient;
constinit const Kernel<ConvDataGradient> winograd_f4x3_data_gradient = winograd::data_gradient_kernel<winograd::F4x3>(
                                             winograd::data_gradient_applies<winograd::F4x3>),
                                         winograd_f2x5_data_gradient = winograd::data_gradient_kernel<winograd::F2x5>(
                                             winograd::data_gradient_applies<winograd::F2x5>),
                                         winograd_f2x3_data_gradient = winograd::data_gradient_kernel<winograd::F2x3>(
                                             winograd::data_gradient_applies<winograd::F2x3>),
                                         winograd_strided_data_gradient =
                                             winograd::data_gradient_kernel<winograd::StridedGradient>(
                                                 winograd::strided_gradient_applies);

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
