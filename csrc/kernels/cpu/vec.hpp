// Thin vector types: one float vector `Vec` of `lanes` elements, as wide as the instruction set that
// this file is compiled for. GCC's and Clang's vector extensions give the operators (+ - * / < ? :),
// a*b + c contracts to a fused multiply-add. Only what they cannot express uses intrinsics.
//
// Everything lives in the namespace of the instruction set, so that no inline function compiled for
// AVX can be merged by the linker with one that a baseline machine runs. For the same reason kernel
// sources use no templates of the standard library that could be emitted out of line.
#pragma once
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace pyconvopt::cpu::PYCONVOPT_ISA {

#if defined(__AVX512F__)
inline constexpr int lanes = 16;
inline constexpr int vector_registers = 32;
#elif defined(__AVX2__)
inline constexpr int lanes = 8;
inline constexpr int vector_registers = 16;
#elif defined(__aarch64__)
inline constexpr int lanes = 4;
inline constexpr int vector_registers = 32;
#else
inline constexpr int lanes = 4;
inline constexpr int vector_registers = 16;
#endif

using Vec = float __attribute__((vector_size(4 * lanes)));
using IVec = int32_t __attribute__((vector_size(4 * lanes)));  // also the type of a comparison
using UVec = uint32_t __attribute__((vector_size(4 * lanes)));

#define PYCONVOPT_INLINE inline __attribute__((always_inline))

namespace detail {
using UnalignedVec = float __attribute__((vector_size(4 * lanes), aligned(4), may_alias));
}

PYCONVOPT_INLINE Vec load(const float* p) { return *reinterpret_cast<const detail::UnalignedVec*>(p); }
PYCONVOPT_INLINE void store(float* p, Vec v) { *reinterpret_cast<detail::UnalignedVec*>(p) = v; }
PYCONVOPT_INLINE Vec broadcast(float value) { return value - Vec{}; }
PYCONVOPT_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
PYCONVOPT_INLINE Vec relu(Vec x) { return x < 0.0f ? Vec{} : x; }  // keeps NaN, as torch does
PYCONVOPT_INLINE Vec clamped(Vec x, float least, float most) {     // so does this
  return x < least ? broadcast(least) : x > most ? broadcast(most) : x;
}

// The first n (0 < n < lanes) elements, zeros behind; nothing past them is touched.
PYCONVOPT_INLINE Vec load_first(const float* p, int n) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#elif defined(__AVX2__)
  return _mm256_maskload_ps(p, __m256i(IVec{0, 1, 2, 3, 4, 5, 6, 7} < n));
#else
  Vec v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}
PYCONVOPT_INLINE void store_first(float* p, Vec v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), v);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, __m256i(IVec{0, 1, 2, 3, 4, 5, 6, 7} < n), v);
#else
  for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// Whole vectors of a channel range: the last one may be partial.
PYCONVOPT_INLINE Vec load_channels(const float* p, int64_t left) {
  return left >= lanes ? load(p) : load_first(p, int(left));
}
PYCONVOPT_INLINE void store_channels(float* p, Vec v, int64_t left) {
  if (left >= lanes) store(p, v);
  else store_first(p, v, int(left));
}

// Integers of 0..255 as bytes. GCC 12 takes __builtin_convertvector element by element through general
// registers, so the conversions are written out.
PYCONVOPT_INLINE void store_bytes(uint8_t* p, IVec v, int64_t left) {
  alignas(16) uint8_t bytes[lanes];
#if defined(__AVX512F__)
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(__m512i(v)));
#elif defined(__AVX2__)
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(__m256i(v)), _mm256_extracti128_si256(__m256i(v), 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), _mm_packus_epi16(words, words));
#else
  for (int i = 0; i < lanes; ++i) bytes[i] = uint8_t(v[i]);
#endif
  if (left >= lanes) __builtin_memcpy(p, bytes, lanes);
  else
    for (int64_t i = 0; i < left; ++i) p[i] = bytes[i];
}

// A row of any length as whole vectors and the first few elements of a last one: `body` is compiled
// for both, body(index, Whole{}) and body(index, First{n}), and hands the second argument on to
// load and store.
struct Whole {};
struct First {
  int n;
};
PYCONVOPT_INLINE Vec load(const float* p, Whole) { return load(p); }
PYCONVOPT_INLINE Vec load(const float* p, First part) { return load_first(p, part.n); }
PYCONVOPT_INLINE void store(float* p, Vec v, Whole) { store(p, v); }
PYCONVOPT_INLINE void store(float* p, Vec v, First part) { store_first(p, v, part.n); }
PYCONVOPT_INLINE void store_bytes(uint8_t* p, IVec v, Whole) { store_bytes(p, v, int64_t(lanes)); }
PYCONVOPT_INLINE void store_bytes(uint8_t* p, IVec v, First part) { store_bytes(p, v, int64_t(part.n)); }
PYCONVOPT_INLINE IVec load_bytes(const uint8_t* p, Whole) {
#if defined(__AVX512F__)
  return IVec(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return IVec(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return IVec{p[0], p[1], p[2], p[3]};
#endif
}
PYCONVOPT_INLINE IVec load_bytes(const uint8_t* p, First part) {
  IVec v{};
  for (int i = 0; i < part.n; ++i) v[i] = p[i];
  return v;
}
template <class Body>
PYCONVOPT_INLINE void for_each_vector(int64_t length, Body body) {
  int64_t i = 0;
  for (; i + lanes <= length; i += lanes) body(i, Whole{});
  if (i < length) body(i, First{int(length - i)});
}

// table[index] of four floats at `table`, 0 where the index is 4.
PYCONVOPT_INLINE Vec look_up(const float* table, IVec index) {
#if defined(__AVX512F__)
  return _mm512_permutexvar_ps(__m512i(index), _mm512_zextps128_ps512(_mm_loadu_ps(table)));
#elif defined(__AVX2__)
  return _mm256_permutevar8x32_ps(_mm256_zextps128_ps256(_mm_loadu_ps(table)), __m256i(index));
#else
  Vec value{};
  for (int i = 0; i < 4; ++i) value = index == i ? broadcast(table[i]) : value;
  return value;
#endif
}

PYCONVOPT_INLINE Vec sqrt(Vec v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, v);  // the plain one makes GCC 12 warn of its own header
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#elif defined(__x86_64__)
  return _mm_sqrt_ps(v);
#else
  return vsqrtq_f32(v);
#endif
}

PYCONVOPT_INLINE constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
PYCONVOPT_INLINE constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
PYCONVOPT_INLINE constexpr int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }

// While one lives, this thread treats denormal numbers as zero (they cost a hundred cycles each).
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t(1) << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
