// Transposes a lanes × lanes block held in vectors: log2(lanes) rounds of two-vector shuffles.
#pragma once
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

template <int distance>
PYCONVOPT_INLINE void transpose_round(Vec* rows) {
  IVec low, high;  // constants after unrolling
#pragma GCC unroll 16
  for (int l = 0; l < lanes; ++l) {
    low[l] = l & distance ? lanes + l - distance : l;
    high[l] = l & distance ? lanes + l : l + distance;
  }
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i)
    if (!(i & distance)) {
      const Vec a = rows[i], b = rows[i + distance];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + distance] = __builtin_shuffle(a, b, high);
    }
  if constexpr (distance > 1) transpose_round<distance / 2>(rows);
}

PYCONVOPT_INLINE void transpose(Vec* rows) { transpose_round<lanes / 2>(rows); }

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
