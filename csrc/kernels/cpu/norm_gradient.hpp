// The gradient of a batch norm in training, from that of its output: affine a channel,
//   dz = p·(g − r) + q·(z − mean),  p = weight · invstd,  q = −p · invstd · weight_gradient / rows,
//   r = bias_gradient / rows,
// where g is the gradient behind the activation. One expression for the pass that writes the map and for the
// convolution that makes it while it reads: both come to the same bits.
#pragma once
#include "affine.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

struct NormGradient {
  Affine affine;
  Vec p, q, r;
  PYCONVOPT_INLINE Vec operator()(Vec g, Vec z) const { return p * (g - r) + q * (z - affine.mean); }
  // From the gradient behind the activation.
  template <Activation activation>
  PYCONVOPT_INLINE Vec behind(Vec g, Vec z) const {
    return (*this)(let_through<activation>(g, affine(z)), z);
  }
};

struct NormGradientLines : AffineLines {
  float *p, *q, *r;

  // In `floats(channels)` of space; q and r are zero until the sums are known.
  NormGradientLines(const InputNorm& norm, int64_t channels, float* space)
      : AffineLines(norm, channels, space),
        p(space + AffineLines::floats(channels)),
        q(p + line(channels)),
        r(q + line(channels)) {
    for (int64_t i = 0; i < 3 * line(channels); ++i) p[i] = 0;
    for (int64_t c = 0; c < channels; ++c) p[c] = float(scale(norm, c));
  }
  static int64_t floats(int64_t channels) { return 6 * line(channels); }
  static double scale(const InputNorm& norm, int64_t c) {
    return (norm.weight ? double(norm.weight[c]) : 1.0) * norm.invstd[c];
  }
  void set_sums(const InputNorm& norm, int64_t c, float weight_gradient, float bias_gradient, int64_t rows) {
    q[c] = float(-scale(norm, c) * norm.invstd[c] * weight_gradient / double(rows));
    r[c] = float(bias_gradient / double(rows));
  }
  PYCONVOPT_INLINE NormGradient gradient_at(int64_t c) const { return {at(c), load(p + c), load(q + c), load(r + c)}; }
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
