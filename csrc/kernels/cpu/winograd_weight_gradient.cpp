// Winograd F(3×3, 4×4) and F(5×5, 2×2): the weight gradient of a 3×3 or 5×5 convolution, and of a 3×3 one of stride 2.
// (The method: winograd.hpp.)
//
//   V[36][C/16][T][16]              input tiles, transformed as in the forward pass; 36 positions, or 81
//   D[36][K/panel][T][panel]        tiles of the output's gradient, transformed
//   W[36][C][K] = Σ_t Vᵀ D          of each factor, summed over its positions and all tiles before the one inverse
//                                   transform
//
// Both are stored in packs as wide as the product reads them: rows of C or K floats apart would map
// to the same few cache sets. Sums run over tiles in their order, whatever the number of threads:
// the result never depends on it. Three orders of the work:
// - All tiles fit a cache, or there are few: transform them all, then threads take blocks of channels × channels,
//   sum them in a small W of their own and transform it at once. W, four times the weights, is
//   never a whole.
// - W is small: tiles in chunks whose number depends on the shape alone. A thread takes whole chunks,
//   some tiles of it at a time, into a W of the chunk. Nothing large is written and read again, so
//   the time does not rest on how much of the last-level cache others leave.
// - Many tiles and a large W: block after block of tiles, all threads transform it, then each adds
//   its positions to the whole W.
#include <omp.h>

#include "../arena.hpp"
#include "gemm.hpp"
#include "pool2x2.hpp"
#include "rows.hpp"
#include "transpose.hpp"
#include "winograd_gradient.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace winograd {
namespace {

struct GradientLayout {
  int64_t packs, panels;   // of input and output channels
  int64_t v_step, d_step;  // floats from one position to the next
  int64_t tiles;           // T of the block
  GradientLayout(const ConvShape& s, int64_t tiles)
      : packs((s.in_channels + pack - 1) / pack),
        panels((s.out_channels + panel - 1) / panel),
        v_step(packs * tiles * pack + 16),
        d_step(panels * tiles * panel + 16),
        tiles(tiles) {}
};

struct Block {  // the transformed tiles
  float *v, *d;
  const float* zeros;
};

template <class F>
void transform_input_tile(const ConvWeightGradient& p, const Reading& reading, const GradientLayout& layout,
                          const TilePlace& place, int64_t t, const Block& block) {
  reading.with([&](auto way) {
    for_each_input_vector<F>(p.shape, p.input, place, block.zeros, way,
                             [&](int64_t c, auto fetch) __attribute__((always_inline)) {
                               float* out = block.v + (c / pack * layout.tiles + t) * pack + c % pack;
                               input_tile<F>(fetch, out, layout.v_step);
                             });
  });
  for (int64_t c = round_up(p.shape.in_channels, lanes); c < layout.packs * pack; c += lanes)
    for (int at = 0; at < F::positions; ++at)
      store(block.v + (c / pack * layout.tiles + t) * pack + c % pack + at * layout.v_step, Vec{});
}

template <class F, class GradientTile>
void transform_gradient_tile(const ConvWeightGradient& p, const GradientLayout& layout, const TilePlace& place,
                             int64_t t, const Block& block) {
  const GradientTile gradient(p, place, block.zeros);
  const auto transform = [](const Vec* in, int step, Vec* out, int out_step) __attribute__((always_inline)) {
    F::Points::template gradient<F::outputs>(in, step, out, out_step);
  };
  for (int64_t k = 0; k < layout.panels * panel; k += lanes) {
    float* out = block.d + (k / panel * layout.tiles + t) * panel + k % panel;
    const int64_t left = p.shape.out_channels - k;
    if (left <= 0) {
      for (int at = 0; at < F::positions; ++at) store(out + at * layout.d_step, Vec{});
      continue;
    }
    transform_tile<typename F::Points>(gradient, k, left, transform, out, layout.d_step);
  }
}

// Writes results[tap][c][k], vectors of output channels, where each filter is one piece of memory: its channels next to
// each other (channels_last) or its taps (torch's own order). Vectors are turned to run along it. False: neither is so.
template <class F>
bool store_turned(const ConvWeightGradient& p, const float (*results)[pack][lanes], int64_t c0, int64_t k) {
  constexpr int taps = F::taps, area = taps * taps;
  const WeightStrides& w = p.weight_strides;
  const bool taps_inside = w.in_channel == area && w.row == taps && w.column == 1;
  if (!taps_inside && w.in_channel != 1) return false;
  for (int at = 0; at < area * pack; at += lanes) {  // elements in the filter's order
    Vec turned[lanes];
#pragma GCC unroll 16
    for (int j = 0; j < lanes; ++j) {
      const int tap = taps_inside ? (at + j) % area : at / pack, c = taps_inside ? (at + j) / area : at % pack + j;
      turned[j] = load(results[tap][c]);
    }
    transpose(turned);
    const int tap = at / pack;
    float* out = p.weight_gradient + k * w.out_channel + c0 * w.in_channel +
                 (taps_inside ? at : tap / taps * w.row + tap % taps * w.column + at % pack);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) store(out + i * w.out_channel, turned[i]);
  }
  return true;
}

// W[c0..][k0..] of one pack × panel: Aᵀ W A, then to the weight gradient's own layout.
template <class F>
void finish_weights(const ConvWeightGradient& p, const float* w, int64_t w_step, int64_t c0, int64_t k0) {
  using Points = typename F::Points;
  constexpr int taps = F::taps, factors = F::factors;
  const WeightStrides& strides = p.weight_strides;
  const int64_t cs = least(pack, p.shape.in_channels - c0);
  for (int half = 0; half < 2; ++half) {
    const int64_t k = k0 + half * lanes, ks = least(lanes, p.shape.out_channels - k);
    if (ks <= 0) return;
    float results[taps * taps][pack][lanes];
    for (int64_t c = 0; c < cs; ++c) {
      Vec half_way[taps * factors];
#pragma GCC unroll 6
      for (int j = 0; j < factors; ++j) {
        Vec column[factors];
#pragma GCC unroll 6
        for (int i = 0; i < factors; ++i) column[i] = load(w + (i * factors + j) * w_step + c * panel + half * lanes);
        Points::template weights<taps>(column, 1, half_way + j, factors);
      }
#pragma GCC unroll 5
      for (int i = 0; i < taps; ++i) {
        Vec g[taps];
        Points::template weights<taps>(half_way + i * factors, 1, g, 1);
#pragma GCC unroll 5
        for (int j = 0; j < taps; ++j) store(results[i * taps + j][c], g[j]);
      }
    }
    if (cs == pack && ks == lanes && store_turned<F>(p, results, c0, k)) continue;
    for (int64_t i = 0; i < ks; ++i)
      for (int tap = 0; tap < taps * taps; ++tap) {
        float* out = p.weight_gradient + (k + i) * strides.out_channel + c0 * strides.in_channel +
                     tap / taps * strides.row + tap % taps * strides.column;
        for (int64_t c = 0; c < cs; ++c) out[c * strides.in_channel] = results[tap][c][i];
      }
  }
}

template <class F, class GradientTile>
void transform_block(const ConvWeightGradient& p, const Reading& reading, const GradientLayout& layout,
                     const Tiles<F>& tiles, int64_t first, int64_t count, const Block& block) {
#pragma omp for schedule(static) nowait
  for (int64_t t = 0; t < count; ++t)
    transform_input_tile<F>(p, reading, layout, TilePlace(tiles, first + t), t, block);
#pragma omp for schedule(static)
  for (int64_t t = 0; t < count; ++t)
    transform_gradient_tile<F, GradientTile>(p, layout, TilePlace(tiles, first + t), t, block);
}

inline constexpr int64_t sums_size = pack * panel;  // of one product: pack × panel, one after the other
inline constexpr int64_t group = 4;                 // packs and panels in a block of channels that one thread takes

template <class F, class GradientTile>
void tiles_at_once(const ConvWeightGradient& p, const Reading& reading, const Tiles<F>& tiles) {
  const ConvShape& s = p.shape;
  const int threads = omp_get_max_threads();
  const GradientLayout layout(s, tiles.count);
  const int64_t zeros_size = greatest(s.in_channels, s.out_channels) + lanes;
  const int64_t w_step = sums_size * group + 16;  // one factor: a pack × a group of panels
  const int64_t v_size = F::positions * layout.v_step, d_size = F::positions * layout.d_step;
  const int64_t w_size = F::weights * w_step;
  Workspace space(Workspace::bytes_for(v_size) + Workspace::bytes_for(d_size) + Workspace::bytes_for(zeros_size) +
                  Workspace::bytes_for(threads * w_size));
  float* v = space.floats(v_size);
  float* d = space.floats(d_size);
  float* zeros = space.floats(zeros_size);
  float* all_w = space.floats(threads * w_size);
  for (int64_t i = 0; i < zeros_size; ++i) zeros[i] = 0;
  const int64_t panel_groups = (layout.panels + group - 1) / group;
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    transform_block<F, GradientTile>(p, reading, layout, tiles, 0, tiles.count, {v, d, zeros});
    float* w = all_w + omp_get_thread_num() * w_size;
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t kg = 0; kg < panel_groups; ++kg)
      for (int64_t c = 0; c < layout.packs; ++c) {
        const int64_t first = kg * group, last = least(first + group, layout.panels);
        for (int u = 0; u < F::weights; ++u)
          for (int at = F::Points::first(u); at < F::Points::first(u + 1); ++at)
            for (int64_t k = first; k < last; ++k) {
              const float* a = v + at * layout.v_step + c * tiles.count * pack;
              const float* b = d + at * layout.d_step + k * tiles.count * panel;
              float* sums = w + u * w_step + (k - first) * sums_size;
              if (at == F::Points::first(u)) outer_product<false>(a, b, tiles.count, sums, panel);
              else outer_product<true>(a, b, tiles.count, sums, panel);
            }
        for (int64_t k = first; k < last; ++k)
          finish_weights<F>(p, w + (k - first) * sums_size, w_step, c * pack, k * panel);
      }
  }
}

// W[u] (+)= Σ over the factor's positions and the block's tiles, for all channels × channels.
template <class F>
void add_products(const GradientLayout& layout, int u, int64_t count, const float* v, const float* d, float* w,
                  bool accumulate) {
  for (int at = F::Points::first(u); at < F::Points::first(u + 1); ++at, accumulate = true)
    for (int64_t c = 0; c < layout.packs; ++c)
      for (int64_t k = 0; k < layout.panels; ++k) {
        const float* a = v + at * layout.v_step + c * layout.tiles * pack;
        const float* b = d + at * layout.d_step + k * layout.tiles * panel;
        float* sums = w + (c * layout.panels + k) * sums_size;
        if (accumulate) outer_product<true>(a, b, count, sums, panel, sums + sums_size);
        else outer_product<false>(a, b, count, sums, panel, sums + sums_size);
      }
}

template <class F, class GradientTile>
void block_by_block(const ConvWeightGradient& p, const Reading& reading, const Tiles<F>& tiles, int64_t block) {
  const ConvShape& s = p.shape;
  const int threads = omp_get_max_threads();
  const GradientLayout layout(s, block);
  const int64_t zeros_size = greatest(s.in_channels, s.out_channels) + lanes;
  const int64_t w_step = layout.packs * layout.panels * sums_size + 16;
  const int64_t v_size = F::positions * layout.v_step, d_size = F::positions * layout.d_step;
  const int64_t w_size = F::weights * w_step;
  Workspace space(Workspace::bytes_for(v_size) + Workspace::bytes_for(d_size) + Workspace::bytes_for(zeros_size) +
                  Workspace::bytes_for(w_size));
  float* v = space.floats(v_size);
  float* d = space.floats(d_size);
  float* zeros = space.floats(zeros_size);
  float* w = space.floats(w_size);
  for (int64_t i = 0; i < zeros_size; ++i) zeros[i] = 0;
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    for (int64_t first = 0; first < tiles.count; first += block) {
      const int64_t count = least(block, tiles.count - first);
      transform_block<F, GradientTile>(p, reading, layout, tiles, first, count, {v, d, zeros});
#pragma omp for schedule(static)
      for (int u = 0; u < F::weights; ++u) add_products<F>(layout, u, count, v, d, w + u * w_step, first != 0);
    }
#pragma omp for collapse(2) schedule(static)
    for (int64_t c = 0; c < layout.packs; ++c)
      for (int64_t k = 0; k < layout.panels; ++k)
        finish_weights<F>(p, w + (c * layout.panels + k) * sums_size, w_step, c * pack, k * panel);
  }
}

template <class F, class GradientTile>
void chunk_by_chunk(const ConvWeightGradient& p, const Reading& reading, const Tiles<F>& tiles, int64_t chunks) {
  constexpr int64_t block = 32;  // more leave the second-level cache: 48 are a tenth slower, 96 a fifth
  const ConvShape& s = p.shape;
  const int threads = int(least(omp_get_max_threads(), chunks));
  const GradientLayout layout(s, block);
  const int64_t zeros_size = greatest(s.in_channels, s.out_channels) + lanes;
  const int64_t w_step = layout.packs * layout.panels * sums_size + 16;
  const int64_t v_size = F::positions * layout.v_step, d_size = F::positions * layout.d_step;
  const int64_t w_size = F::weights * w_step;
  Workspace space(Workspace::bytes_for(threads * v_size) + Workspace::bytes_for(threads * d_size) +
                  Workspace::bytes_for(zeros_size) + Workspace::bytes_for(chunks * w_size));
  float* all_v = space.floats(threads * v_size);
  float* all_d = space.floats(threads * d_size);
  float* zeros = space.floats(zeros_size);
  float* all_w = space.floats(chunks * w_size);
  for (int64_t i = 0; i < zeros_size; ++i) zeros[i] = 0;
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* v = all_v + omp_get_thread_num() * v_size;
    float* d = all_d + omp_get_thread_num() * d_size;
#pragma omp for schedule(static)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t begin = tiles.count * chunk / chunks, end = tiles.count * (chunk + 1) / chunks;
      for (int64_t first = begin; first < end; first += block) {
        const int64_t count = least(block, end - first);
        TilePlace input_place(tiles, first), gradient_place = input_place;
        for (int64_t t = 0; t < count; ++t, input_place.advance(tiles))
          transform_input_tile<F>(p, reading, layout, input_place, t, {v, d, zeros});
        for (int64_t t = 0; t < count; ++t, gradient_place.advance(tiles))
          transform_gradient_tile<F, GradientTile>(p, layout, gradient_place, t, {v, d, zeros});
        for (int u = 0; u < F::weights; ++u)
          add_products<F>(layout, u, count, v, d, all_w + chunk * w_size + u * w_step, first != begin);
      }
    }
#pragma omp for collapse(2) schedule(static)
    for (int64_t c = 0; c < layout.packs; ++c)
      for (int64_t k = 0; k < layout.panels; ++k) {
        float* w = all_w + (c * layout.panels + k) * sums_size;
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
          for (int u = 0; u < F::weights; ++u)
            for (int64_t i = 0; i < sums_size; i += lanes) {
              float* sum = w + u * w_step + i;
              store(sum, load(sum) + load(sum + chunk * w_size));
            }
        finish_weights<F>(p, w, w_step, c * pack, k * panel);
      }
  }
}

template <class F>
bool gradient_applies(const ConvWeightGradient& p) {
  if (F::step > F::outputs && !strided_saves(p.shape, 80)) return false;
  return takes_shape<F>(p.shape) && fills_panels<F>(p.shape.out_channels);
}

template <class F, class GradientTile>
void weight_gradient_from(const ConvWeightGradient& p) {
  const Tiles<F> tiles(p.shape);
  const Reading reading(p.norm, p.shape.in_channels);
  const GradientLayout one(p.shape, 1);
  const int64_t tile_bytes = F::positions * int64_t(sizeof(float)) * (one.packs * pack + one.panels * panel);
  const int64_t w_bytes = F::weights * int64_t(sizeof(float)) * one.packs * pack * one.panels * panel;
  const bool few_weights = w_bytes <= (int64_t(5) << 19);
  // All at once reads D again for each pack of V, 128 bytes a tile, where a whole W would be written and read, 4 KiB;
  // but a W of tens of megabytes is not worth its memory for a few tiles more.
  const int64_t bytes = tiles.count * tile_bytes, mega = int64_t(1) << 20;
  const bool few_tiles = tiles.count <= 40 || (w_bytes > 16 * mega && bytes <= 10 * mega);
  if (bytes <= 2 * mega || (!few_weights && few_tiles)) tiles_at_once<F, GradientTile>(p, reading, tiles);
  else if (few_weights) chunk_by_chunk<F, GradientTile>(p, reading, tiles, greatest(4, least(16, tiles.count / 256)));
  else block_by_block<F, GradientTile>(p, reading, tiles, greatest(24, 5 * mega / tile_bytes / 8 * 8));
}

// The sums of a pooled gradient over the windows that ReLU let through.
void bias_gradient(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  const int64_t channels = s.out_channels;
  const Chunks chunks(s.batch * (s.out_height() / 2) * (s.out_width() / 2), channels);
  ChunkSums<1> sums(chunks.count, channels);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t thread) {
    sum_chunk<1>(true, sums, chunk, thread, chunks.begin(chunk), chunks.end(chunk), channels,
                 [&](int64_t row, int64_t c, auto part, Vec* sum) __attribute__((always_inline)) {
                   const int64_t at = row * channels + c;
                   sum[0] += live_gradient(p.output_gradient + at, load_bytes(p.argmax + at, part), part);
                 });
  });
  const double* total = sums.total();
  for (int64_t k = 0; k < channels; ++k) p.bias_gradient[k] = float(total[k]);
}

template <class F>
void weight_gradient(const ConvWeightGradient& p) {
  if (p.argmax) weight_gradient_from<F, PooledTile<F>>(p);
  else weight_gradient_from<F, MapTile<F>>(p);
  if (p.bias_gradient) bias_gradient(p);
}

bool gradient_worth_it(const ConvWeightGradient& p) {
  return !one_tile_of_large_weights(p.shape, p.shape.batch * p.shape.out_height() * p.shape.out_width());
}

template <class F>
constexpr Kernel<ConvWeightGradient> weight_gradient_kernel() {
  Kernel<ConvWeightGradient> kernel{name<F>, why<F>, gradient_applies<F>, weight_gradient<F>};
  if constexpr (F::taps == 3 && F::step == F::outputs) kernel.worth_it = gradient_worth_it;
  return kernel;
}

}  // namespace
}  // namespace winograd

extern const Kernel<ConvWeightGradient> winograd_f4x3_weight_gradient, winograd_f2x5_weight_gradient,
    winograd_strided_weight_gradient;
constinit const Kernel<ConvWeightGradient> winograd_f4x3_weight_gradient =
                                               winograd::weight_gradient_kernel<winograd::F4x3>(),
                                           winograd_f2x5_weight_gradient =
                                               winograd::weight_gradient_kernel<winograd::F2x5>(),
                                           winograd_strided_weight_gradient =
                                               winograd::weight_gradient_kernel<winograd::Strided>();

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
