// The implicit matrix product (implicit_gemm.cu) on tensor cores, in tf32 or bfloat16, with float32 sums.
//
// A block makes 64 × 64 elements in steps of 16 terms. Its 8 warps stand 4 × 2, each with 16 × 32 elements in four
// accumulator tiles. float32 factors go to shared memory by asynchronous copies, one step ahead of the products, and
// are rounded when a fragment is loaded. A product's order of terms is free, so both types load the same eight: a
// lane takes t, t + 4, t + 8, t + 12 and calls them what the instruction wants.
//
// The element of term k and side s lies in line k at s XOR swizzle(k). A warp loads 4 terms of 8 neighbours, and its
// copies write 16 terms of 2 neighbours or one term of 32: none of these meet in a bank.
#include <tensor_core.cuh>

#include "epilogue.cuh"

namespace pyconvopt::cuda {
namespace {

__device__ __forceinline__ int swizzle(int term) { return term % 4 * 8 + term / 4 * 2; }

__device__ __forceinline__ void copy(float* to, const float* from, const float* readable) {
  copy_async(to, from ? from : readable, from != nullptr);
}
template <class T>
__device__ __forceinline__ void copy(float* to, const T* from, const T*) {
  *to = from ? to_float(*from) : 0.0f;
}

// Of a tile: the terms t, t + 4, t + 8, t + 12 of one side.
__device__ __forceinline__ void load_terms(const float (&tiles)[depth][tile], int t, int side, float (&to)[4]) {
#pragma unroll
  for (int c = 0; c < 4; ++c) to[c] = tiles[t + 4 * c][side ^ swizzle(t + 4 * c)];
}

// Of each accumulator tile a pair of columns, in two rows; the lanes with the same t and the warps of a half of the
// columns hold the same columns.
struct Held {
  static constexpr int rows = 2, columns = 8, lowest_lane = 4, parts = 4;
  int warp = int(threadIdx.x) / warp_size, part = warp % parts;
  int g = int(threadIdx.x) % warp_size / 4, t = int(threadIdx.x) % 4;

  __device__ __forceinline__ int row(int i) const { return part * 16 + g + 8 * i; }
  __device__ __forceinline__ int column(int j) const { return first_column() + 8 * (j / 2) + 2 * t + j % 2; }
  __device__ __forceinline__ int first_column() const { return warp / parts * 32; }
  template <class Elements>
  static __device__ __forceinline__ auto& element(Elements& elements, int i, int j) {
    return elements[j / 2][2 * i + j % 2];
  }
};

template <class T, Pass pass, bool tf32>
__global__ void __launch_bounds__(threads, 2) tensor_gemm(const Product<T> p) {
  __shared__ float a_tiles[2][depth][tile], b_tiles[2][depth][tile];
  const Operands<T, pass> operands(p);
  const Place a_place(p.gathered_terms_first), b_place(p.other_terms_first);
  const auto rows = operands.rows(a_place);

  const auto fetch = [&](int begin, int buffer) {
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const int term = a_place.term + i * a_place.term_step, side = a_place.side + i * a_place.side_step;
      copy(&a_tiles[buffer][term][side ^ swizzle(term)], operands.a(rows, a_place, begin, i), p.gathered);
    }
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const int term = b_place.term + i * b_place.term_step, side = b_place.side + i * b_place.side_step;
      float* const to = &b_tiles[buffer][term][side ^ swizzle(term)];
      if constexpr (pass == Pass::weight_gradient) copy(to, operands.b(b_place, begin, i), p.dense);
      else copy(to, operands.b(b_place, begin, i), p.weight);
    }
    commit_copies();
  };

  const Held held;
  float sums[4][4] = {};
  fetch(operands.first_term, 0);
  int buffer = 0;
  for (int begin = operands.first_term; begin < operands.end; begin += depth, buffer ^= 1) {
    if (begin + depth < operands.end) {
      fetch(begin + depth, buffer ^ 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    float upper[4], lower[4];
    load_terms(a_tiles[buffer], held.t, held.row(0), upper);
    load_terms(a_tiles[buffer], held.t, held.row(1), lower);
    uint32_t a[2][4];
    if constexpr (tf32) {
#pragma unroll
      for (int c = 0; c < 4; ++c) a[c / 2][c % 2 * 2] = to_tf32(upper[c]), a[c / 2][c % 2 * 2 + 1] = to_tf32(lower[c]);
    } else {
      a[0][0] = to_bfloat16_pair(upper[0], upper[1]);
      a[0][1] = to_bfloat16_pair(lower[0], lower[1]);
      a[0][2] = to_bfloat16_pair(upper[2], upper[3]);
      a[0][3] = to_bfloat16_pair(lower[2], lower[3]);
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float terms[4];
      load_terms(b_tiles[buffer], held.t, held.first_column() + held.g + 8 * n, terms);
      if constexpr (tf32) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t b[2] = {to_tf32(terms[2 * half]), to_tf32(terms[2 * half + 1])};
          multiply_tf32(sums[n], a[half], b);
        }
      } else {
        const uint32_t b[2] = {to_bfloat16_pair(terms[0], terms[1]), to_bfloat16_pair(terms[2], terms[3])};
        multiply_bfloat16(sums[n], a[0], b);
      }
    }
    __syncthreads();
  }
  finish<pass>(operands, held, sums, a_tiles);
}

}  // namespace

template <class T, Pass pass>
int launch_tensor_gemm(int32_t math, const Product<T>& product, dim3 grid, void* stream) {
  const auto kernel = math == PYCONVOPT_MATH_TF32 ? tensor_gemm<T, pass, true> : tensor_gemm<T, pass, false>;
  return launch(kernel, grid, threads, stream, product);
}

#define PYCONVOPT_TENSOR_GEMM(T)                                                                    \
  template int launch_tensor_gemm<T, Pass::forward>(int32_t, const Product<T>&, dim3, void*);       \
  template int launch_tensor_gemm<T, Pass::data_gradient>(int32_t, const Product<T>&, dim3, void*); \
  template int launch_tensor_gemm<T, Pass::weight_gradient>(int32_t, const Product<T>&, dim3, void*);
PYCONVOPT_TENSOR_GEMM(float)
PYCONVOPT_TENSOR_GEMM(__half)
PYCONVOPT_TENSOR_GEMM(__nv_bfloat16)

}  // namespace pyconvopt::cuda
