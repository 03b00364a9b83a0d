// What the reference kernels share.
#pragma once
#include "../conv.hpp"

namespace pyconvopt::reference {

inline constexpr const char* last_resort = "plain loops: no faster kernel takes this problem";

template <class P>
bool takes_all(const P&) {
  return true;
}

inline double activated(Activation activation, double z) {
  if (activation == Activation::relu) return z < 0 ? 0 : z;
  if (activation == Activation::relu6) return z < 0 ? 0 : z > 6 ? 6 : z;
  if (activation == Activation::hardswish) return z <= -3 ? 0 : z >= 3 ? z : z * (z + 3) / 6;
  return z;
}

// What is done to an element of channel c while it is read; `norm` may be null.
inline double normalized(const InputNorm* norm, int64_t c, double x) {
  if (!norm) return x;
  return activated(norm->activation, (x - norm->mean[c]) * norm->invstd[c] * (norm->weight ? norm->weight[c] : 1.0) +
                                         (norm->bias ? norm->bias[c] : 0.0));
}

// What an activation lets through of a gradient.
inline double let_through(Activation activation, double g, double z) {
  if (activation == Activation::relu) return z <= 0 ? 0 : g;
  if (activation == Activation::relu6) return z <= 0 || z >= 6 ? 0 : g;
  if (activation == Activation::hardswish) return z <= -3 ? 0 : z >= 3 ? g : g * (z / 3 + 0.5);
  return g;
}

}  // namespace pyconvopt::reference
