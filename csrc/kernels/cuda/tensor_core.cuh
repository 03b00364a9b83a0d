// Instructions that CUDA C++ has no functions for: products of tensor cores, and copies to shared memory that do
// not pass through registers (compute capability 8.0). Included in angle brackets: the tests put a file of this
// name before it, which does the same in plain C++.
//
// A warp adds a·b to a 16 × 8 tile d. With g = lane / 4 and t = lane % 4 a lane holds (PTX ISA, "Matrix fragments")
//   d[0..3]   (row g, column 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//   tf32      8 terms:  a[0..3] (row g, term t), (g + 8, t), (g, t + 4), (g + 8, t + 4);  b[0..1] (t, column g), (t +
//   4, g) bfloat16  16 terms, two to a register: a[0..3] (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8) and the
//   term
//             after each;  b[0..1] (2t, g), (2t + 8, g) and the term after each
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace pyconvopt::cuda {

__device__ __forceinline__ void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rounded to 11 bits of mantissa, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// Rounded to nearest, ties to even; `first` in the lower half.
__device__ __forceinline__ uint32_t to_bfloat16_pair(float first, float second) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
  return bits;
}

// *to = *from, or 0 where `inside` is false, some time before `wait_for_copies` says that it is done. `from` is an
// address of global memory in either case.
__device__ __forceinline__ void copy_async(float* to, const float* from, bool inside) {
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(shared), "l"(from), "r"(inside ? 4 : 0)
               : "memory");
}
// What was copied since the last call is one group.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All of the thread's groups but the last `left` are done.
template <int left>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(left) : "memory");
}

}  // namespace pyconvopt::cuda
