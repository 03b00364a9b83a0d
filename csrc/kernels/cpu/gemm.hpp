// The two register-blocked products that convolutions are made of. Both keep rows × 2 vectors of
// the result in registers and, per step, load two vectors of B and broadcast one element of A a row.
//
//   product:        C[r][k]  = Σ_c A[r·lda + c] · B[c][k]         (A rows are pixels or tiles)
//   outer_product:  C[c][k] += Σ_t A[t][c] · B[t][k]              (sums over pixels or tiles)
//
// B is packed in panels of `panel` = 2·lanes columns, so that every step reads one contiguous line.
// With 16 registers 6 × 2 accumulators leave 4 for B and A; with 32, 12 × 2 fit.
#pragma once
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

inline constexpr int panel = 2 * lanes;
inline constexpr int product_rows = vector_registers == 32 ? 12 : 6;

template <int rows, bool accumulate>
PYCONVOPT_INLINE void product_tile(const float* a, int64_t lda, const float* b, int64_t steps, float* c, int64_t ldc) {
  Vec sum[rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    sum[r][0] = accumulate ? load(c + r * ldc) : Vec{};
    sum[r][1] = accumulate ? load(c + r * ldc + lanes) : Vec{};
  }
  for (int64_t s = 0; s < steps; ++s) {
    const Vec b0 = load(b + s * panel), b1 = load(b + s * panel + lanes);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Vec av = broadcast(a[r * lda + s]);
      sum[r][0] += av * b0;
      sum[r][1] += av * b1;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    store(c + r * ldc, sum[r][0]);
    store(c + r * ldc + lanes, sum[r][1]);
  }
}

// Calls tile.template operator()<n>() for a run-time n in 1..most.
template <int most, class Tile>
PYCONVOPT_INLINE void with_rows(int n, Tile tile) {
  if constexpr (most > 1) {
    if (n < most) return with_rows<most - 1>(n, tile);
  }
  tile.template operator()<most>();
}

// C[rows][panel] (+)= A[rows][steps] · B[steps][panel].
template <bool accumulate = false>
inline void product(const float* a, int64_t lda, const float* b, int64_t steps, float* c, int64_t ldc, int64_t rows) {
  int64_t r = 0;
  for (; r + product_rows <= rows; r += product_rows)
    product_tile<product_rows, accumulate>(a + r * lda, lda, b, steps, c + r * ldc, ldc);
  if (r < rows)
    with_rows<product_rows>(
        int(rows - r), [&]<int n>() { product_tile<n, accumulate>(a + r * lda, lda, b, steps, c + r * ldc, ldc); });
}

// The rows of outer_product come in packs of 16 elements (a cache line), walked 8+8 or 6+6+4.
inline constexpr int pack = 16;

template <int rows, bool accumulate>
PYCONVOPT_INLINE void outer_product_tile(const float* a, const float* b, int64_t steps, float* c, int64_t ldc) {
  Vec sum[rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    sum[r][0] = accumulate ? load(c + r * ldc) : Vec{};
    sum[r][1] = accumulate ? load(c + r * ldc + lanes) : Vec{};
  }
  for (int64_t s = 0; s < steps; ++s) {
    const Vec b0 = load(b + s * panel), b1 = load(b + s * panel + lanes);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Vec av = broadcast(a[s * pack + r]);
      sum[r][0] += av * b0;
      sum[r][1] += av * b1;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    store(c + r * ldc, sum[r][0]);
    store(c + r * ldc + lanes, sum[r][1]);
  }
}

// C[pack][panel] (+)= Σ A[steps][pack] ᵀ· B[steps][panel].
template <bool accumulate>
inline void outer_product(const float* a, const float* b, int64_t steps, float* c, int64_t ldc) {
  if constexpr (vector_registers == 32) {
    outer_product_tile<8, accumulate>(a, b, steps, c, ldc);
    outer_product_tile<8, accumulate>(a + 8, b, steps, c + 8 * ldc, ldc);
  } else {
    outer_product_tile<6, accumulate>(a, b, steps, c, ldc);
    outer_product_tile<6, accumulate>(a + 6, b, steps, c + 6 * ldc, ldc);
    outer_product_tile<4, accumulate>(a + 12, b, steps, c + 12 * ldc, ldc);
  }
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
