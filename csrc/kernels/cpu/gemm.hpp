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

// What is read after a product, to be fetched while it runs: the A of the next one, whose rows lie one after the
// other, and its B. Without these (null) nothing is fetched.
struct Next {
  const float *a = nullptr, *b = nullptr;
};

template <int rows, bool accumulate, bool fetch>
PYCONVOPT_INLINE void product_tile(const float* a, int64_t lda, const float* b, int64_t steps, float* c, int64_t ldc,
                                   Next next, int64_t next_b_step) {
  Vec sum[rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    sum[r][0] = accumulate ? load(c + r * ldc) : Vec{};
    sum[r][1] = accumulate ? load(c + r * ldc + lanes) : Vec{};
  }
  for (int64_t s = 0; s < steps; ++s) {
    if constexpr (fetch) {
      __builtin_prefetch(next.a + s * rows);
      __builtin_prefetch(next.b + s * next_b_step, 0, 2);  // it is read when the whole of this one is done
    }
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

// Rows in as many shares as there are blocks of registers, all of them as large.
struct Shares {
  int64_t count, each;
  explicit Shares(int64_t rows) : count((rows + product_rows - 1) / product_rows), each((rows + count - 1) / count) {}
};

template <bool accumulate, bool fetch>
PYCONVOPT_INLINE void product_blocks(const float* a, int64_t lda, const float* b, int64_t steps, float* c, int64_t ldc,
                                     int64_t rows, Next next) {
  const auto [shares, each] = Shares(rows);
  const int64_t b_step = panel / shares;  // of B, which they fetch together
  for (int64_t r = 0; r < rows; r += each) {
    const int64_t left = rows - r;
    const float* after = left > each ? a + (r + each) * lda : next.a;
    with_rows<product_rows>(int(least(left, each)), [&]<int n>() __attribute__((always_inline)) {
      product_tile<n, accumulate, fetch>(a + r * lda, lda, b, steps, c + r * ldc, ldc, {after, next.b}, b_step);
    });
    if constexpr (fetch) next.b += steps * b_step;
  }
}

// C[rows][panel] (+)= A[rows][steps] · B[steps][panel].
template <bool accumulate = false>
inline void product(const float* a, int64_t lda, const float* b, int64_t steps, float* c, int64_t ldc, int64_t rows,
                    Next next = {}) {
  if (next.b) product_blocks<accumulate, true>(a, lda, b, steps, c, ldc, rows, next);
  else product_blocks<accumulate, false>(a, lda, b, steps, c, ldc, rows, next);
}

// The rows of outer_product come in packs of 16 elements (a cache line), walked 8+8 or 6+6+4.
inline constexpr int pack = 16;

// What is fetched while sums are taken: some bytes of two pieces of memory each step.
struct Streams {
  const char *a = nullptr, *b = nullptr;
  int64_t a_bytes = 0, b_bytes = 0;
};

template <int rows, int vectors, bool accumulate, bool fetch>
PYCONVOPT_INLINE void outer_product_tile(const float* a, const float* b, int64_t steps, float* c, int64_t ldc,
                                         const float* next_c, Streams& later) {
  if (next_c)
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      __builtin_prefetch(next_c + r * ldc, 1);
      __builtin_prefetch(next_c + r * ldc + panel - 1, 1);
    }
  Vec sum[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[r][v] = accumulate ? load(c + r * ldc + v * lanes) : Vec{};
  for (int64_t s = 0; s < steps; ++s) {
    if constexpr (fetch) {
      __builtin_prefetch(later.a);
      __builtin_prefetch(later.b);
      later.a += later.a_bytes;
      later.b += later.b_bytes;
    }
    Vec factor[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) factor[v] = load(b + s * panel + v * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Vec av = broadcast(a[s * pack + r]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[r][v] += av * factor[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(c + r * ldc + v * lanes, sum[r][v]);
}

// C[pack][panel] (+)= Σ A[steps][pack] ᵀ· B[steps][panel], or the first vector of each panel. `next_c`: the sums that
// come after these, to be fetched while they are taken, or null.
template <bool accumulate, bool fetch = false, int vectors = 2>
inline Streams outer_product(const float* a, const float* b, int64_t steps, float* c, int64_t ldc,
                             const float* next_c = nullptr, Streams later = {}) {
  const auto part = [&]<int first, int rows>() __attribute__((always_inline)) {
    outer_product_tile<rows, vectors, accumulate, fetch>(a + first, b, steps, c + first * ldc, ldc,
                                                         next_c ? next_c + first * ldc : nullptr, later);
  };
  if constexpr (vector_registers == 32) {
    part.template operator()<0, 8>();
    part.template operator()<8, 8>();
  } else {
    part.template operator()<0, 6>();
    part.template operator()<6, 6>();
    part.template operator()<12, 4>();
  }
  return later;
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
