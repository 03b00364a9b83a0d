// float16 by its definition (IEEE 754 binary16), rounding to nearest, ties to even.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half h) {
  const int exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
  float value;
  if (exponent == 31) value = fraction ? NAN : INFINITY;
  else if (exponent == 0) value = std::ldexp(float(fraction), -24);
  else value = std::ldexp(float(fraction + 1024), exponent - 25);
  return h.bits >> 15 ? -value : value;
}

inline __half __float2half_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  const float size = std::fabs(x);
  if (size != size) return {uint16_t(sign | 0x7fff)};
  if (size >= 65520.0f) return {uint16_t(sign | 0x7c00)};
  if (size < 0x1p-14f)
    return {uint16_t(sign | uint16_t(std::nearbyint(size * 0x1p24f)))};  // may reach the smallest normal
  int exponent;
  const float fraction = std::frexp(size, &exponent);                     // [0.5, 1)
  const uint32_t rounded = uint32_t(std::nearbyint(fraction * 2048.0f));  // 1024..2048, a carry moves the exponent
  return {uint16_t(sign | uint16_t((uint32_t(exponent + 14) << 10) + (rounded - 1024)))};
}
