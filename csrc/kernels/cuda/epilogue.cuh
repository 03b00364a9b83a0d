// What becomes of the tile that a block of the implicit matrix product has in registers: it is stored, and a batch
// norm behind the convolution is told of every column (a channel) the mean and Σ(x − mean)² over the tile's rows
// (pixels), of the values as they are stored, so that it need not read the map for them.
//
// The mean comes first and the squares after it, both from registers, so that nothing cancels when the mean is large
// against the deviation. Sums go over a thread's rows, the lanes with the same columns, the warps with the same
// columns, always in that order. The warps' lie in the tiles of a factor, which the product no longer needs.
//
// `Held` says what of the tile a thread holds: `rows` × `columns` elements at row(i), column(j), the lanes with the
// same columns (those that differ in the bits from `lowest_lane` on) and which of `parts` its warp has of the rows.
#pragma once
#include "implicit_gemm.cuh"

namespace pyconvopt::cuda {

template <int lowest_lane>
__device__ __forceinline__ float sum_of_lanes(float x) {
#pragma unroll
  for (int lanes = lowest_lane; lanes < warp_size; lanes *= 2) x += __shfl_xor_sync(all_lanes, x, lanes);
  return x;
}

template <int parts, int width>
__device__ __forceinline__ float sum_of_parts(const float (&sums)[depth][width], int column) {
  float sum = sums[0][column];
#pragma unroll
  for (int part = 1; part < parts; ++part) sum += sums[part][column];
  return sum;
}

// Elements in rows that do not exist must be 0. Every thread of the block calls it, behind a barrier.
template <class Held, class Operands, int width>
__device__ __forceinline__ void write_moments(const Operands& operands, const Held& held, const float (&elements)[4][4],
                                              float (&space)[2][depth][width]) {
  const int rows = int(least(tile, operands.p.height - operands.first_row));
  const bool writes = int(threadIdx.x) % warp_size < Held::lowest_lane;
#pragma unroll
  for (int j = 0; j < Held::columns; ++j) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < Held::rows; ++i) sum += Held::element(elements, i, j);
    sum = sum_of_lanes<Held::lowest_lane>(sum);
    if (writes) space[0][held.part][held.column(j)] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < Held::columns; ++j) {
    const float mean = sum_of_parts<Held::parts>(space[0], held.column(j)) / float(rows);
    float square = 0;
#pragma unroll
    for (int i = 0; i < Held::rows; ++i) {
      const float difference = Held::element(elements, i, j) - mean;
      if (held.row(i) < rows) square = fmaf(difference, difference, square);
    }
    square = sum_of_lanes<Held::lowest_lane>(square);
    if (writes) space[1][held.part][held.column(j)] = square;
  }
  __syncthreads();
  const int column = int(threadIdx.x);
  if (column >= tile || operands.first_column + column >= operands.p.width) return;
  const int64_t channels = operands.pixels.channels;
  float* const means =
      operands.p.moments + blockIdx.x * channels + operands.group * operands.group_to + operands.first_column + column;
  means[0] = sum_of_parts<Held::parts>(space[0], column) / float(rows);
  means[gridDim.x * channels] = sum_of_parts<Held::parts>(space[1], column);
}

template <Pass pass, class Held, class Operands, int width>
__device__ __forceinline__ void finish(const Operands& operands, const Held& held, float (&elements)[4][4],
                                       float (&space)[2][depth][width]) {
#pragma unroll
  for (int i = 0; i < Held::rows; ++i)
#pragma unroll
    for (int j = 0; j < Held::columns; ++j) {
      float& element = Held::element(elements, i, j);
      element = operands.store(operands.first_row + held.row(i), operands.first_column + held.column(j), element);
    }
  if constexpr (pass == Pass::forward)
    if (operands.p.moments) write_moments(operands, held, elements, space);
}

}  // namespace pyconvopt::cuda
