// Direct convolution: any kernel size, stride, dilation and padding, as a product of matrices.
//
//   pixels × (taps · channels)  by  (taps · channels) × output channels
//
// The left factor is never built as a whole (the input would be there once for every tap). A thread
// copies the rows of a few dozen pixels into its cache, from wherever the taps find them, zeros for those
// outside the image, and multiplies them by the packed weight. The pixels of a 1×1 convolution are such
// rows already and are read in place. The data gradient is the same product over other pixels.
//
//   weights   W[panel][tap][C][panel width]
#pragma once
#include "../conv.hpp"
#include "gemm.hpp"
#include "place.hpp"
#include "transpose.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::direct {

// Each result's pixel has one source, at the same place of the map.
inline bool pointwise(const ConvShape& s) {
  return s.kernel_height == 1 && s.kernel_width == 1 && s.stride_height == 1 && s.stride_width == 1 &&
         s.padding_height == 0 && s.padding_width == 0;
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
