// What the kernels of the implicit matrix product share (implicit_gemm.cu has the idea): the problem, where its
// elements lie, and what becomes of a finished one.
#pragma once
#include "conv.cuh"

namespace pyconvopt::cuda {

inline constexpr int tile = PYCONVOPT_MOMENT_ROWS, depth = 16, threads = 256, share = tile * depth / threads;

enum class Pass { forward, data_gradient, weight_gradient };

// Where a thread's `share` elements of a tile lie: along the terms first, or along the tile's own side.
struct Place {
  int term, side, term_step, side_step;
  __device__ Place(bool terms_first)
      : term(terms_first ? threadIdx.x % depth : threadIdx.x / tile),
        side(terms_first ? threadIdx.x / depth : threadIdx.x % tile),
        term_step(terms_first ? 0 : threads / tile),
        side_step(terms_first ? threads / depth : 0) {}
};

template <class T>
struct Product {
  Geometry g;
  const T* gathered;  // input, or output gradient in the data gradient
  const T* dense;     // output gradient, in the weight gradient
  const float* weight;
  const float* bias;
  bool relu;
  T* result;
  float* partial;            // weight gradient: (group, split, tap, out channel)
  float* moments;            // forward: (mean, Σ(x − mean)²) × (tile of rows, channel), or null
  int height, width, terms;  // of the product
  int splits, terms_a_split;
  bool gathered_terms_first, other_terms_first;
};

struct Tap {
  int row, column, channel;
};
__device__ __forceinline__ Tap tap_of(int index, int channels, int kernel_width) {
  const unsigned pixel = unsigned(index) / unsigned(channels), row = pixel / unsigned(kernel_width);
  return {int(row), int(pixel - row * unsigned(kernel_width)), int(index - pixel * unsigned(channels))};
}

// The elements of both factors, and of the result, as one block sees them.
template <class T, Pass pass>
struct Operands {
  static constexpr bool back = pass == Pass::data_gradient, of_weights = pass == Pass::weight_gradient;
  const Product<T>& p;
  const StridedMap& from;    // that is gathered
  const StridedMap& pixels;  // whose pixels are counted
  int group, group_from, group_to, first_row, first_column, first_term, end;

  __device__ __forceinline__ explicit Operands(const Product<T>& p)
      : p(p),
        from(back ? p.g.output : p.g.input),
        pixels(back ? p.g.input : p.g.output),
        group(int(blockIdx.z) / p.splits),
        group_from(from.channels / p.g.groups),
        group_to(pixels.channels / p.g.groups),
        first_row(int(blockIdx.x) * tile),
        first_column(int(blockIdx.y) * tile),
        first_term(int(blockIdx.z) % p.splits * p.terms_a_split),
        end(int(least(p.terms, int64_t(first_term) + p.terms_a_split))) {}

  // Null where the tap lies in the padding, or between the strides.
  __device__ __forceinline__ const T* gathered(const Pixel& at, const Tap& tap) const {
    int y, x;
    if (!p.g.vertical.template source<back>(at.y, tap.row, from.height, y)) return nullptr;
    if (!p.g.horizontal.template source<back>(at.x, tap.column, from.width, x)) return nullptr;
    return p.gathered + int64_t(group) * group_from * from.channel + at.image * from.image +
           (int64_t(y) * from.width + x) * from.pixel + tap.channel * from.channel;
  }
  // The weight at a tap and a channel of the product's other side.
  __device__ __forceinline__ const float* weight(const Tap& tap, int other) const {
    const int64_t out = int64_t(group) * (back ? group_from : group_to) + (back ? tap.channel : other);
    return p.weight + out * p.g.weight_out_channel + (back ? other : tap.channel) * p.g.weight_in_channel +
           tap.row * p.g.weight_row + tap.column * p.g.weight_column;
  }
  __device__ __forceinline__ int64_t dense(const Pixel& at, int channel) const {
    return at.image * pixels.image + at.position * pixels.pixel +
           (int64_t(group) * group_to + channel) * pixels.channel;
  }

  // The `share` rows of a thread: pixels, or taps in the weight gradient.
  struct Rows {
    Pixel pixels[share];
    Tap taps[share];
  };
  __device__ __forceinline__ Rows rows(const Place& place) const {
    Rows rows;
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const int row = first_row + place.side + i * place.side_step;
      if constexpr (of_weights) rows.taps[i] = tap_of(row, group_from, p.g.kernel_width);
      else rows.pixels[i] = pixel_of(unsigned(row), pixels);
    }
    return rows;
  }

  // The thread's element `i` of the tiles that begin at term `begin`; null for 0.
  __device__ __forceinline__ const T* a(const Rows& rows, const Place& place, int begin, int i) const {
    const int term = begin + place.term + i * place.term_step;
    if (term >= end || first_row + place.side + i * place.side_step >= p.height) return nullptr;
    if constexpr (of_weights) return gathered(pixel_of(unsigned(term), pixels), rows.taps[i]);
    else return gathered(rows.pixels[i], tap_of(term, group_from, p.g.kernel_width));
  }
  __device__ __forceinline__ auto b(const Place& place, int begin, int i) const {
    const int term = begin + place.term + i * place.term_step;
    const int column = first_column + place.side + i * place.side_step;
    const bool inside = term < end && column < p.width;
    if constexpr (of_weights) return inside ? p.dense + dense(pixel_of(unsigned(term), pixels), column) : nullptr;
    else return inside ? weight(tap_of(term, group_from, p.g.kernel_width), column) : nullptr;
  }

  // Returns what the map then holds, 0 outside of it.
  __device__ __forceinline__ float store(int row, int column, float sum) const {
    if (row >= p.height || column >= p.width) return 0;
    if constexpr (of_weights) {
      return p.partial[(int64_t(blockIdx.z) * p.height + row) * p.width + column] = sum;
    } else {
      if (p.bias) sum += p.bias[group * group_to + column];
      if (p.relu && sum < 0) sum = 0;
      const T stored = from_float<T>(sum);
      p.result[dense(pixel_of(unsigned(row), pixels), column)] = stored;
      return to_float(stored);
    }
  }
};

// tensor_gemm.cu
template <class T, Pass pass>
int launch_tensor_gemm(int32_t math, const Product<T>& product, dim3 grid, void* stream);

}  // namespace pyconvopt::cuda
