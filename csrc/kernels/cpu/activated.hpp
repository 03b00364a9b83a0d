// The activations that other kernels apply to their results, and what they let through of a gradient.
#pragma once
#include "../kernel.hpp"
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

// None ends in a product: what adds the result to something would fuse the two, and skip a rounding.
template <Activation activation>
PYCONVOPT_INLINE Vec activated(Vec z) {
  if constexpr (activation == Activation::relu) return relu(z);
  if constexpr (activation == Activation::relu6) return clamped(z, 0.0f, 6.0f);
  if constexpr (activation == Activation::hardswish)
    return z >= 3.0f ? z : z * clamped(z + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
  return z;
}

// Calls use.template operator()<activation>() for a run-time one.
template <class Use>
PYCONVOPT_INLINE auto with_activation(Activation activation, Use use) {
  switch (activation) {
    case Activation::relu: return use.template operator()<Activation::relu>();
    case Activation::relu6: return use.template operator()<Activation::relu6>();
    case Activation::hardswish: return use.template operator()<Activation::hardswish>();
    default: return use.template operator()<Activation::none>();
  }
}
PYCONVOPT_INLINE Vec activated(Activation activation, Vec z) {
  return with_activation(activation,
                         [&]<Activation known>() __attribute__((always_inline)) { return activated<known>(z); });
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
