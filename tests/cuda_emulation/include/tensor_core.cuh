// The emulated device's tensor cores and asynchronous copies; the kernels' own file of this name says what a lane
// holds.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace pyconvopt::cuda {

// d += a·b, of which the lanes of a row hold a's and the lanes of a column b's; value(register, part) is one of the
// terms that a register holds.
template <int parts, class Value>
inline void emulated_product(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Value value) {
  const unsigned row = emulation::lane() / 4, column = emulation::lane() % 4 * 2;
  double sums[4] = {d[0], d[1], d[2], d[3]};
  for (unsigned t = 0; t < 4; ++t) {
    const uint64_t of_row[2] = {
        __shfl_sync(~0u, uint64_t(a[0]) << 32 | a[1], int(row * 4 + t)),
        __shfl_sync(~0u, uint64_t(a[2]) << 32 | a[3], int(row * 4 + t)),
    };
    const uint64_t of_column[2] = {
        __shfl_sync(~0u, uint64_t(b[0]) << 32 | b[1], int(column * 4 + t)),
        __shfl_sync(~0u, uint64_t(b[0]) << 32 | b[1], int(column * 4 + 4 + t)),
    };
    for (int i = 0; i < 4; ++i)
      for (int half = 0; half < 2; ++half)
        for (int part = 0; part < parts; ++part)
          sums[i] += double(value(uint32_t(of_row[half] >> (i < 2 ? 32 : 0)), part)) *
                     double(value(uint32_t(of_column[i % 2] >> (half ? 0 : 32)), part));
  }
  for (int i = 0; i < 4; ++i) d[i] = float(sums[i]);
}

inline void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulated_product<1>(d, a, b, [](uint32_t bits, int) {
    bits &= ~uint32_t(0x1fff);  // the tensor cores read no more
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  });
}

inline void multiply_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulated_product<2>(
      d, a, b, [](uint32_t bits, int part) { return __bfloat162float(__nv_bfloat16{uint16_t(bits >> 16 * part)}); });
}

inline uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return x - x == 0 ? (bits + 0x1000) & ~uint32_t(0x1fff) : bits;
}

inline uint32_t to_bfloat16_pair(float first, float second) {
  return uint32_t(__float2bfloat16_rn(first).bits) | uint32_t(__float2bfloat16_rn(second).bits) << 16;
}

inline void copy_async(float* to, const float* from, bool inside) { emulation::copy_later(to, inside ? *from : 0.0f); }
inline void commit_copies() { emulation::commit_copies(); }
template <int left>
inline void wait_for_copies() {
  emulation::Copy copy;
  while (emulation::next_copy(left, copy)) *copy.to = copy.value;
}

}  // namespace pyconvopt::cuda
