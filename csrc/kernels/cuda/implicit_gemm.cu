// Dense and grouped convolution as a matrix product whose one factor is never stored: element (pixel, tap) of it
// is gathered from the map, where `tap` counts kernel row, kernel column and channel.
//
//   forward           output[pixel, k]   = Σ_tap   input(pixel, tap) · weight[tap, k]
//   data gradient     input'[pixel, c]   = Σ_tap   output'(pixel, tap) · weight[tap, c],  taps count k
//   weight gradient   weight'[tap, k]    = Σ_pixel input(pixel, tap) · output'[pixel, k]
//
// A block makes 64 × 64 elements, a thread 4 × 4 of them, in steps of 16 terms: the next step's terms are loaded
// into registers while the current ones, in shared memory, are multiplied. Lines of shared memory are 66 floats,
// with which neither the columns that the loads write nor the pairs that the products read meet in a bank.
// Threads load along whichever of pixel and channel are neighbours in memory. The weight gradient's long sum is
// split among blocks in a number that depends on the shape alone and merged in double.
#include "epilogue.cuh"

namespace pyconvopt::cuda {
namespace {

constexpr int line = 66;

// Two pairs of rows and of columns, half a tile apart; half a warp holds all columns.
struct Held {
  static constexpr int rows = 4, columns = 4, lowest_lane = 16, parts = threads / warp_size;
  int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16, part = int(threadIdx.x) / warp_size;

  static __device__ __forceinline__ int offset(int at, int i) { return i / 2 * (tile / 2) + 2 * at + i % 2; }
  __device__ __forceinline__ int row(int i) const { return offset(y, i); }
  __device__ __forceinline__ int column(int j) const { return offset(x, j); }
  template <class Elements>
  static __device__ __forceinline__ auto& element(Elements& elements, int i, int j) {
    return elements[i][j];
  }
};

template <class T, Pass pass>
__global__ void __launch_bounds__(threads, 2) implicit_gemm(const Product<T> p) {
  __shared__ float a_tiles[2][depth][line], b_tiles[2][depth][line];
  const Operands<T, pass> operands(p);
  const Place a_place(p.gathered_terms_first), b_place(p.other_terms_first);
  const auto rows = operands.rows(a_place);

  float a_next[share], b_next[share];
  const auto fetch = [&](int begin) {
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const T* a = operands.a(rows, a_place, begin, i);
      a_next[i] = a ? to_float(*a) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const auto* b = operands.b(b_place, begin, i);
      b_next[i] = b ? to_float(*b) : 0.0f;
    }
  };
  const auto keep = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < share; ++i) {
      a_tiles[buffer][a_place.term + i * a_place.term_step][a_place.side + i * a_place.side_step] = a_next[i];
      b_tiles[buffer][b_place.term + i * b_place.term_step][b_place.side + i * b_place.side_step] = b_next[i];
    }
  };

  const Held held;
  float sums[4][4] = {};
  fetch(operands.first_term);
  keep(0);
  __syncthreads();
  int buffer = 0;
  for (int begin = operands.first_term; begin < operands.end; begin += depth, buffer ^= 1) {
    const bool more = begin + depth < operands.end;
    if (more) fetch(begin + depth);
#pragma unroll 4  // unrolled wholly it needs more registers than two blocks leave
    for (int k = 0; k < depth; ++k) {
      float2 a[2], b[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        a[h] = *reinterpret_cast<const float2*>(&a_tiles[buffer][k][held.row(2 * h)]);
        b[h] = *reinterpret_cast<const float2*>(&b_tiles[buffer][k][held.column(2 * h)]);
      }
      const float rows[4] = {a[0].x, a[0].y, a[1].x, a[1].y}, columns[4] = {b[0].x, b[0].y, b[1].x, b[1].y};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(rows[i], columns[j], sums[i][j]);
    }
    if (more) keep(buffer ^ 1);
    __syncthreads();
  }
  finish<pass>(operands, held, sums, a_tiles);
}

__global__ void __launch_bounds__(block_threads) merge_splits(const float* partial, Geometry g, int splits, float* to) {
  const int out = g.output.channels / g.groups, in = g.input.channels / g.groups;
  const int64_t size = int64_t(g.taps()) * in * out;  // of a group
  const int64_t i = int64_t(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= size * g.groups) return;
  const int64_t group = i / size, at = i - group * size;
  double sum = 0;
  for (int split = 0; split < splits; ++split) sum += partial[(group * splits + split) * size + at];
  const Tap tap = tap_of(int(at / out), in, g.kernel_width);
  to[(group * out + at % out) * g.weight_out_channel + tap.channel * g.weight_in_channel + tap.row * g.weight_row +
     tap.column * g.weight_column] = float(sum);
}

dim3 grid_of(int64_t height, int64_t width, int64_t depth) {
  return dim3(unsigned(ceil_divide(height, tile)), unsigned(ceil_divide(width, tile)), unsigned(depth));
}

template <class T, Pass pass>
int launch_gemm(int32_t math, const Product<T>& product, dim3 grid, void* stream) {
  if (math != PYCONVOPT_MATH_FLOAT32) return launch_tensor_gemm<T, pass>(math, product, grid, stream);
  return launch(implicit_gemm<T, pass>, grid, threads, stream, product);
}

template <Pass pass>
int run(const PyconvoptConv& c, const void* gathered, const float* weight, const float* bias, bool relu, void* result,
        float* moments, void* stream) {
  constexpr bool back = pass == Pass::data_gradient;
  const Geometry g(c);
  const StridedMap &from = back ? g.output : g.input, &to = back ? g.input : g.output;
  const int64_t height = c.input.batch * to.pixels(), width = to.channels / g.groups;
  const int64_t terms = int64_t(g.taps()) * (from.channels / g.groups);
  const dim3 grid = grid_of(height, width, g.groups);
  if (grid.y > 65535 || terms >= int64_t(1) << 30) return PYCONVOPT_CUDA_TOO_LARGE;
  return with_type(c.input.type, [&]<class T>() {
    const Product<T> product{g,
                             static_cast<const T*>(gathered),
                             nullptr,
                             weight,
                             bias,
                             relu,
                             static_cast<T*>(result),
                             nullptr,
                             moments,
                             int(height),
                             int(width),
                             int(terms),
                             1,
                             int(terms),
                             c.input.layout == PYCONVOPT_NHWC,
                             !back};
    return launch_gemm<T, pass>(c.math, product, grid, stream);
  });
}

// Splits of the sum over pixels: about 400 blocks, and 256 pixels at least for each.
struct Splits {
  int64_t count, terms;
  explicit Splits(const PyconvoptConv& c) {
    const int64_t pixels = rows(output_of(c)), taps = c.kernel_height * c.kernel_width * c.input.channels / c.groups;
    const int64_t tiles = ceil_divide(taps, tile) * ceil_divide(c.out_channels / c.groups, tile) * c.groups;
    const int64_t wanted = most(1, least(ceil_divide(400, tiles), ceil_divide(pixels, 256)));
    terms = most(depth, ceil_divide(ceil_divide(pixels, wanted), depth) * depth);
    count = most(1, ceil_divide(pixels, terms));
  }
};

}  // namespace

int gemm_forward(const PyconvoptConvForward& p, void* stream) {
  return run<Pass::forward>(p.shape, p.input, p.weight, p.bias, p.relu != 0, p.output, p.moments, stream);
}

int gemm_data_gradient(const PyconvoptConvDataGradient& p, void* stream) {
  return run<Pass::data_gradient>(p.shape, p.output_gradient, p.weight, nullptr, false, p.input_gradient, nullptr,
                                  stream);
}

int64_t gemm_moments(const PyconvoptConv& c) { return 2 * ceil_divide(rows(output_of(c)), tile) * c.out_channels; }

int64_t gemm_workspace(const PyconvoptConv& c) {
  return Splits(c).count * c.kernel_height * c.kernel_width * (c.input.channels / c.groups) * c.out_channels *
         int64_t(sizeof(float));
}

int gemm_weight_gradient(const PyconvoptConvWeightGradient& p, void* stream) {
  const PyconvoptConv& c = p.shape;
  const Geometry g(c);
  const Splits splits(c);
  const int64_t taps = int64_t(g.taps()) * (c.input.channels / c.groups), outs = c.out_channels / c.groups;
  float* partial = static_cast<float*>(p.workspace);
  const dim3 grid = grid_of(taps, outs, g.groups * splits.count);
  if (grid.y > 65535 || grid.z > 65535) return PYCONVOPT_CUDA_TOO_LARGE;
  const bool nhwc = c.input.layout == PYCONVOPT_NHWC;
  const int error = with_type(c.input.type, [&]<class T>() {
    const Product<T> product{g,
                             static_cast<const T*>(p.input),
                             static_cast<const T*>(p.output_gradient),
                             nullptr,
                             nullptr,
                             false,
                             nullptr,
                             partial,
                             nullptr,
                             int(taps),
                             int(outs),
                             int(rows(output_of(c))),
                             int(splits.count),
                             int(splits.terms),
                             !nhwc,
                             !nhwc};
    return launch_gemm<T, Pass::weight_gradient>(c.math, product, grid, stream);
  });
  if (error) return error;
  const int64_t size = taps * outs * g.groups;
  return launch(merge_splits, dim3(unsigned(ceil_divide(size, block_threads))), block_threads, stream, partial, g,
                int(splits.count), p.weight_gradient);
}

}  // namespace pyconvopt::cuda
