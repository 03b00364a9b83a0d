// The activations that other kernels apply to their results, and what they let through of a gradient.
#pragma once
#include "../kernel.hpp"
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

template <Activation activation>
PYCONVOPT_INLINE Vec activated(Vec z) {
  if constexpr (activation == Activation::relu) return relu(z);
  if constexpr (activation == Activation::relu6) return clamped(z, 0.0f, 6.0f);
  if constexpr (activation == Activation::hardswish) return z * clamped(z + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
  return z;
}
PYCONVOPT_INLINE Vec activated(Activation activation, Vec z) {
  switch (activation) {
    case Activation::none: return z;
    case Activation::relu: return activated<Activation::relu>(z);
    case Activation::relu6: return activated<Activation::relu6>(z);
    case Activation::hardswish: return activated<Activation::hardswish>(z);
  }
  return z;
}

// From the gradient behind the activation and the value before it.
template <Activation activation>
PYCONVOPT_INLINE Vec let_through(Vec g, Vec z) {
  if constexpr (activation == Activation::relu) return z <= 0.0f ? Vec{} : g;
  if constexpr (activation == Activation::relu6) return (z <= 0.0f) | (z >= 6.0f) ? Vec{} : g;
  if constexpr (activation == Activation::hardswish)
    return z <= -3.0f ? Vec{} : z >= 3.0f ? g : g * (z * (1.0f / 3.0f) + 0.5f);
  return g;
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
