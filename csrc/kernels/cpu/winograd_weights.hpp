// The weights of a Winograd convolution, U = G g Gᵀ, in the panels that the product reads.
//
//   U[panel][factors²][C][panel width]
#pragma once
#include "gemm.hpp"
#include "transpose.hpp"
#include "winograd.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd {

// Sizes and strides of one call, in floats.
struct Layout {
  int64_t channels;       // C, rounded up to whole vectors
  int64_t panels;         // of output channels
  int positions;          // of a tile
  int64_t u_step;         // from one factor of a panel of U to the next
  int64_t panel_weights;  // one panel of U
  template <class F>
  Layout(const ConvShape& s, F)
      : channels(round_up(s.in_channels, lanes)),
        panels((s.out_channels + panel - 1) / panel),
        positions(F::positions),
        u_step(channels * panel + 16),
        panel_weights(F::weights * u_step) {}
  // One cache line more than the data, here and in u_step: strides of a power of two would map to the same
  // cache sets.
  int64_t position_step(int64_t tiles) const { return tiles * channels + 16; }
};

// Reads the taps of `lanes` output channels (from k) for `lanes` input channels (from c):
// values[tap][c][k]. Elements past the end are zero.
template <int taps>
void gather_taps(const ConvForward& p, int64_t k, int64_t c, Vec values[taps * taps][lanes]) {
  const ConvShape& s = p.shape;
  const WeightStrides& w = p.weight_strides;
  const int64_t ks = least(lanes, s.out_channels - k), cs = least(lanes, s.in_channels - c);
  const float* block = p.weight + k * w.out_channel + c * w.in_channel;
  if (ks < lanes || cs < lanes || (w.out_channel != 1 && w.in_channel != 1)) {
    for (int t = 0; t < taps * taps; ++t) {
      const float* tap = block + t / taps * w.row + t % taps * w.column;
      for (int i = 0; i < lanes; ++i) {
        values[t][i] = Vec{};
        if (i < cs)
          for (int j = 0; j < ks; ++j) values[t][i][j] = tap[j * w.out_channel + i * w.in_channel];
      }
    }
    return;
  }
  for (int t = 0; t < taps * taps; ++t) {
    const float* tap = block + t / taps * w.row + t % taps * w.column;
    if (w.out_channel == 1) {
      for (int i = 0; i < lanes; ++i) {
        values[t][i] = load(tap + i * w.in_channel);
        __builtin_prefetch(tap + (i + lanes) * w.in_channel);
      }
    } else {
      Vec rows[lanes];
#pragma GCC unroll 16
      for (int j = 0; j < lanes; ++j) {
        rows[j] = load(tap + j * w.out_channel);
        __builtin_prefetch(tap + j * w.out_channel + lanes);  // filters lie pages apart: nothing else foresees it
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) values[t][i] = rows[i];
    }
  }
}

// G g Gᵀ for the channels c..c+lanes of one panel, to panel_u[factor][c][panel width].
template <class F>
void transform_weights(const ConvForward& p, int64_t u_step, int64_t panel_index, int64_t c, float* panel_u) {
  using Points = typename F::Points;
  constexpr int taps = F::taps, factors = F::factors;
  for (int half = 0; half < 2; ++half) {
    Vec values[taps * taps][lanes];
    const int64_t k = panel_index * panel + half * lanes;
    if (k < p.shape.out_channels) gather_taps<taps>(p, k, c, values);
    else
      for (auto& tap : values)
        for (Vec& v : tap) v = Vec{};
    for (int i = 0; i < lanes; ++i) {
      Vec columns[factors * taps];
#pragma GCC unroll 5
      for (int j = 0; j < taps; ++j) {
        Vec g[taps];
#pragma GCC unroll 5
        for (int y = 0; y < taps; ++y) g[y] = values[y * taps + j][i];
        Points::template filter<taps>(g, 1, columns + j, taps);
      }
      float* out = panel_u + (c + i) * panel + half * lanes;
#pragma GCC unroll 6
      for (int y = 0; y < factors; ++y) {
        Vec u[factors];
        Points::template filter<taps>(columns + y * taps, 1, u, 1);
#pragma GCC unroll 6
        for (int x = 0; x < factors; ++x) store(out + (y * factors + x) * u_step, u[x]);
      }
    }
  }
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd
