// The weights of a Winograd convolution, U = G g Gᵀ, in the panels that the product reads.
//
//   U[panel][36][C][panel width]
#pragma once
#include "gemm.hpp"
#include "transpose.hpp"
#include "winograd.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd {

// Sizes and strides of one call, in floats.
struct Layout {
  int64_t channels;       // C, rounded up to whole vectors
  int64_t panels;         // of output channels
  int64_t u_step;         // from one position of a panel of U to the next
  int64_t panel_weights;  // one panel of U
  explicit Layout(const ConvShape& s)
      : channels(round_up(s.in_channels, lanes)),
        panels((s.out_channels + panel - 1) / panel),
        u_step(channels * panel + 16),
        panel_weights(positions * u_step) {}
  // One cache line more than the data, here and in u_step: strides of a power of two would map to the same
  // cache sets.
  int64_t position_step(int64_t tiles) const { return tiles * channels + 16; }
};

// Reads the 9 taps of `lanes` output channels (from k) for `lanes` input channels (from c):
// taps[tap][c][k]. Elements past the end are zero.
inline void gather_taps(const ConvForward& p, int64_t k, int64_t c, Vec taps[9][lanes]) {
  const ConvShape& s = p.shape;
  const WeightStrides& w = p.weight_strides;
  const int64_t ks = least(lanes, s.out_channels - k), cs = least(lanes, s.in_channels - c);
  const float* block = p.weight + k * w.out_channel + c * w.in_channel;
  if (ks < lanes || cs < lanes || (w.out_channel != 1 && w.in_channel != 1)) {
    for (int t = 0; t < 9; ++t) {
      const float* tap = block + t / 3 * w.row + t % 3 * w.column;
      for (int i = 0; i < lanes; ++i) {
        taps[t][i] = Vec{};
        if (i < cs)
          for (int j = 0; j < ks; ++j) taps[t][i][j] = tap[j * w.out_channel + i * w.in_channel];
      }
    }
    return;
  }
  for (int t = 0; t < 9; ++t) {
    const float* tap = block + t / 3 * w.row + t % 3 * w.column;
    if (w.out_channel == 1) {
      for (int i = 0; i < lanes; ++i) taps[t][i] = load(tap + i * w.in_channel);
    } else {
      Vec rows[lanes];
#pragma GCC unroll 16
      for (int j = 0; j < lanes; ++j) rows[j] = load(tap + j * w.out_channel);
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) taps[t][i] = rows[i];
    }
  }
}

// G g Gᵀ for the channels c..c+lanes of one panel, to panel_u[position][c][panel width].
inline void transform_weights(const ConvForward& p, int64_t u_step, int64_t panel_index, int64_t c, float* panel_u) {
  for (int half = 0; half < 2; ++half) {
    Vec taps[9][lanes];
    const int64_t k = panel_index * panel + half * lanes;
    if (k < p.shape.out_channels) gather_taps(p, k, c, taps);
    else
      for (auto& tap : taps)
        for (Vec& v : tap) v = Vec{};
    for (int i = 0; i < lanes; ++i) {
      Vec columns[tile * 3];
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        const Vec g[3] = {taps[j][i], taps[3 + j][i], taps[6 + j][i]};
        transform_filter3(g, 1, columns + j, 3);
      }
      float* out = panel_u + (c + i) * panel + half * lanes;
#pragma GCC unroll 6
      for (int y = 0; y < tile; ++y) {
        Vec u[tile];
        transform_filter3(columns + y * 3, 1, u, 1);
#pragma GCC unroll 6
        for (int x = 0; x < tile; ++x) store(out + (y * tile + x) * u_step, u[x]);
      }
    }
  }
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd
