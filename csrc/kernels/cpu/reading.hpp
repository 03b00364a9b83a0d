// How a convolution or max-pool reads its input: as it lies there, or normalised and activated on the way, so that the
// map between a batch norm and what follows it is never stored.
#pragma once
#include "../arena.hpp"
#include "affine.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

// Both say at(c): what makes of a vector of the map's channels, from c on, what is convolved or pooled.
struct AsItLies {
  static constexpr bool changes = false;
  PYCONVOPT_INLINE auto at(int64_t) const {
    return [](Vec x) __attribute__((always_inline)) { return x; };
  }
};
template <Activation activation>
struct Normalized {
  static constexpr bool changes = true;
  const AffineLines& lines;
  PYCONVOPT_INLINE auto at(int64_t c) const {
    return [affine = lines.at(c)](Vec x) __attribute__((always_inline)) { return activated<activation>(affine(x)); };
  }
};

// What a problem asks for; its lines lie in a workspace of its own.
class Reading {
 public:
  Reading(const InputNorm* norm, int64_t channels)
      : norm_(norm),
        space_(Workspace::bytes_for(norm ? AffineLines::floats(channels) : 0)),
        lines_(norm ? AffineLines(*norm, channels, space_.floats(AffineLines::floats(channels))) : AffineLines{}) {}

  bool changes() const { return norm_ != nullptr; }
  const AffineLines& lines() const { return lines_; }
  // Calls use(way) with one of the two.
  template <class Use>
  PYCONVOPT_INLINE void with(Use use) const {
    if (!norm_) return use(AsItLies{});
    with_activation(norm_->activation,
                    [&]<Activation known>() __attribute__((always_inline)) { use(Normalized<known>{lines_}); });
  }

 private:
  const InputNorm* norm_;
  Workspace space_;
  AffineLines lines_;
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
