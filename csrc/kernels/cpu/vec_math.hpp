// exp, expm1, log, log1p and the tail of the normal distribution on vectors, for arguments of one sign:
// exp(−a) lies in 0..1, so that nothing overflows, and every activation can be written with it.
//
// Polynomials are minimax fits of the relative error in single precision. Largest relative errors over
// all floats: exp, expm1, log, log1p 2.5e-7, normal_tail 1e-6 up to a = 4 and (1 + a²/2)·1.2e-7 beyond.
// Results below the smallest normal number are zero.
#pragma once
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

PYCONVOPT_INLINE Vec absolute(Vec x) { return Vec(UVec(x) & 0x7fffffffu); }
PYCONVOPT_INLINE Vec with_sign_of(Vec magnitude, Vec x) { return Vec(UVec(magnitude) | (UVec(x) & 0x80000000u)); }

// exp(x) = power · (1 + rest) for −87.3 <= x <= 0, with power = 2ⁿ and |log(1 + rest)| <= log(2)/2;
// ln 2 is in two parts, the first of few bits: its product with n is exact.
struct Exponential {
  Vec power, rest;
};
PYCONVOPT_INLINE Exponential exponential(Vec x) {
  constexpr float lowest = -87.3f, rounder = 12582912.0f;  // 1.5 · 2²³: adding it rounds to an integer
  x = x < lowest ? broadcast(lowest) : x;
  const Vec shifted = x * 1.44269504f + rounder, n = shifted - rounder;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = broadcast(0.00138825155f);
  p = p * r + 0.00836653821f;
  p = p * r + 0.0416672006f;
  p = p * r + 0.166665435f;
  p = p * r + 0.49999997f;
  return {Vec((UVec(shifted) << 23) + 0x3f800000u), r + r * r * p};
}

// exp(x) and exp(x) − 1 for x <= 0.
PYCONVOPT_INLINE Vec exp_negative(Vec x) {
  const Exponential e = exponential(x);
  return x < -87.3f ? Vec{} : e.power + e.power * e.rest;
}
PYCONVOPT_INLINE Vec expm1_negative(Vec x) {
  const Exponential e = exponential(x);
  return e.power * e.rest + (e.power - 1.0f);
}

// log(1 + u) = 2 artanh(s), s = u / (2 + u), for 0 <= u <= 1.
PYCONVOPT_INLINE Vec log1p_unit(Vec u) {
  const Vec s = u / (2.0f + u), z = s * s;
  Vec p = broadcast(0.140122324f);
  p = p * z + 0.139995694f;
  p = p * z + 0.200108498f;
  p = p * z + 0.333332062f;
  const Vec twice = s + s;
  return twice + twice * (z * p);
}

// log(x) = n · log(2) + log(m) for x = 2ⁿ · m >= 1, with 1 <= m < 2.
PYCONVOPT_INLINE Vec log_above_one(Vec x) {
  constexpr float shift = 8388608.0f;  // 2²³: integers below it are its last bits
  const Vec n = Vec((UVec(x) >> 23) | 0x4b000000u) - (shift + 127.0f);
  const Vec m = Vec((UVec(x) & 0x007fffffu) | 0x3f800000u);
  const Vec log = n * 0.693359375f + (log1p_unit(m - 1.0f) - n * 2.12194440e-4f);
  return x < __builtin_inff() ? log : x;
}

// σ(x) = 1 / (1 + exp(−x)), and σ(−x), which 1 − σ(x) would lose.
struct Sigmoid {
  Vec value, complement;
};
PYCONVOPT_INLINE Sigmoid sigmoid(Vec x) {
  const Vec e = exp_negative(-absolute(x)), larger = 1.0f / (1.0f + e), smaller = e * larger;
  return {x < 0.0f ? smaller : larger, x < 0.0f ? larger : smaller};
}

// Φ(−a) for a >= 0, and exp(−a²/2): erfcx(a/√2) is t times a polynomial in t = 1 / (1 + 0.37 a/√2).
struct NormalTail {
  Vec tail, bell;
};
PYCONVOPT_INLINE NormalTail normal_tail(Vec a) {
  const Vec t = 1.0f / (1.0f + a * 0.261629509f);
  const Vec bell = exp_negative(a * a * -0.5f);
  Vec p = broadcast(0.0620596707f);
  p = p * t - 0.303939044f;
  p = p * t + 0.488224477f;
  p = p * t - 0.286904573f;
  p = p * t + 0.311913162f;
  p = p * t + 0.106040522f;
  p = p * t + 0.206379041f;
  p = p * t + 0.2074119f;
  p = p * t + 0.20881483f;
  return {0.5f * bell * (p * t), bell};
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
