// Direct convolution by indirect products: any kernel size, stride, dilation and padding.
//
// A convolution is a product of pixels × taps·channels by taps·channels × output channels whose left
// factor is never built: for each tap, a table of pointers says where the channels of every output
// pixel's input lie (Dukhan 2019, "The indirect convolution algorithm", arXiv:1907.02129). Pixels
// outside the image point to a line of zeros. The same product, over other tables, is the forward
// pass and the data gradient.
//
//   weights   W[panel][tap][C][panel width]
#pragma once
#include "../conv.hpp"
#include "gemm.hpp"
#include "transpose.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::direct {

// Pixels of one register block: 8 pointers leave registers for the rest of the loop.
inline constexpr int block_pixels = vector_registers == 32 ? 8 : 6;

// sums = Σ_tap Σ_c pixels[tap·pixel_step + r][c] · w[tap][c][·] for `rows` pixels and one panel.
template <int rows>
PYCONVOPT_INLINE void pixels_times_taps(const float* const* pixels, int64_t pixel_step, int64_t taps, int64_t channels,
                                        const float* w, Vec (*sums)[2]) {
  Vec sum[rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) sum[r][0] = sum[r][1] = Vec{};
  for (int64_t t = 0; t < taps; ++t) {
    const float* from[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) from[r] = pixels[t * pixel_step + r];
    const float* end = w + channels * panel;
    for (int64_t c = 0; w != end; ++c, w += panel) {
      const Vec w0 = load(w), w1 = load(w + lanes);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const Vec value = broadcast(from[r][c]);
        sum[r][0] += value * w0;
        sum[r][1] += value * w1;
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) sums[r][0] = sum[r][0], sums[r][1] = sum[r][1];
}

// A weight seen as [outer][inner][tap]: `outer` channels become panels, `inner` ones are summed over.
struct WeightView {
  const float* data;
  int64_t outer, inner, taps, kernel_width;
  int64_t outer_stride, inner_stride, row, column;
  int64_t tap_offset(int64_t t) const { return t / kernel_width * row + t % kernel_width * column; }
  int64_t panels() const { return (outer + panel - 1) / panel; }
  int64_t panel_floats() const { return taps * inner * panel; }
};

// W[panel][tap][inner][panel width] of one vector of outer channels and one tap.
inline void pack_tap(const WeightView& view, int64_t vector, int64_t tap, float* packed) {
  const int64_t k = vector * lanes, ks = least(lanes, view.outer - k);
  float* out = packed + (vector / 2 * view.taps + tap) * view.inner * panel + vector % 2 * lanes;
  if (ks <= 0) {
    for (int64_t c = 0; c < view.inner; ++c) store(out + c * panel, Vec{});
    return;
  }
  const float* from = view.data + k * view.outer_stride + view.tap_offset(tap);
  int64_t c = 0;
  if (ks == lanes && view.outer_stride == 1) {
    for (; c < view.inner; ++c) store(out + c * panel, load(from + c * view.inner_stride));
  } else if (ks == lanes && view.inner_stride == 1) {
    for (; c + lanes <= view.inner; c += lanes) {
      Vec rows[lanes];
#pragma GCC unroll 16
      for (int j = 0; j < lanes; ++j) rows[j] = load(from + j * view.outer_stride + c);
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) store(out + (c + i) * panel, rows[i]);
    }
  }
  for (; c < view.inner; ++c) {
    Vec v{};
    for (int j = 0; j < ks; ++j) v[j] = from[j * view.outer_stride + c * view.inner_stride];
    store(out + c * panel, v);
  }
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::direct
