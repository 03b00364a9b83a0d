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
#include "conv.cuh"

namespace pyconvopt::cuda {
namespace {

constexpr int tile = 64, depth = 16, threads = 256, line = 66, share = tile * depth / threads;

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

template <class T, Pass pass>
__global__ void __launch_bounds__(threads, 2) implicit_gemm(const Product<T> p) {
  constexpr bool back = pass == Pass::data_gradient, of_weights = pass == Pass::weight_gradient;
  __shared__ float a_tiles[2][depth][line], b_tiles[2][depth][line];
  const Geometry& g = p.g;
  const StridedMap& from = back ? g.output : g.input;    // that is gathered
  const StridedMap& pixels = back ? g.input : g.output;  // whose pixels are counted
  const int group = int(blockIdx.z) / p.splits, split = int(blockIdx.z) % p.splits;
  const int group_from = from.channels / g.groups, group_to = pixels.channels / g.groups;
  const T* map = p.gathered + int64_t(group) * group_from * from.channel;
  const int first_row = int(blockIdx.x) * tile, first_column = int(blockIdx.y) * tile;
  const int first_term = split * p.terms_a_split, end = int(least(p.terms, int64_t(first_term) + p.terms_a_split));

  const auto gather = [&](const Pixel& at, const Tap& tap) {
    int y, x;
    if (!g.vertical.source<back>(at.y, tap.row, from.height, y)) return 0.0f;
    if (!g.horizontal.source<back>(at.x, tap.column, from.width, x)) return 0.0f;
    return to_float(
        map[at.image * from.image + (int64_t(y) * from.width + x) * from.pixel + tap.channel * from.channel]);
  };
  // The element of the weights at a tap and a channel of the product's other side.
  const auto weight_at = [&](const Tap& tap, int other) {
    const int64_t out = int64_t(group) * (back ? group_from : group_to) + (back ? tap.channel : other);
    return out * g.weight_out_channel + (back ? other : tap.channel) * g.weight_in_channel + tap.row * g.weight_row +
           tap.column * g.weight_column;
  };
  const auto dense_at = [&](const Pixel& at, int channel) {
    return at.image * pixels.image + at.position * pixels.pixel +
           (int64_t(group) * group_to + channel) * pixels.channel;
  };

  const Place a_place(p.gathered_terms_first), b_place(p.other_terms_first);
  Pixel row_pixels[share];
  Tap row_taps[share];
#pragma unroll
  for (int i = 0; i < share; ++i) {
    const int row = first_row + a_place.side + i * a_place.side_step;
    if constexpr (of_weights) row_taps[i] = tap_of(row, group_from, g.kernel_width);
    else row_pixels[i] = pixel_of(unsigned(row), pixels);
  }

  float a_next[share], b_next[share];
  const auto fetch = [&](int begin) {
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const int term = begin + a_place.term + i * a_place.term_step;
      const bool inside = term < end && first_row + a_place.side + i * a_place.side_step < p.height;
      a_next[i] = 0;
      if (!inside) continue;
      if constexpr (of_weights) a_next[i] = gather(pixel_of(unsigned(term), pixels), row_taps[i]);
      else a_next[i] = gather(row_pixels[i], tap_of(term, group_from, g.kernel_width));
    }
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const int term = begin + b_place.term + i * b_place.term_step;
      const int column = first_column + b_place.side + i * b_place.side_step;
      b_next[i] = 0;
      if (term >= end || column >= p.width) continue;
      if constexpr (of_weights) b_next[i] = to_float(p.dense[dense_at(pixel_of(unsigned(term), pixels), column)]);
      else b_next[i] = p.weight[weight_at(tap_of(term, group_from, g.kernel_width), column)];
    }
  };
  const auto keep = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < share; ++i) {
      a_tiles[buffer][a_place.term + i * a_place.term_step][a_place.side + i * a_place.side_step] = a_next[i];
      b_tiles[buffer][b_place.term + i * b_place.term_step][b_place.side + i * b_place.side_step] = b_next[i];
    }
  };

  // The thread's rows and columns: two pairs each, half a tile apart.
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
  const auto offset = [](int at, int i) { return i / 2 * (tile / 2) + 2 * at + i % 2; };
  float sums[4][4] = {};
  fetch(first_term);
  keep(0);
  __syncthreads();
  int buffer = 0;
  for (int begin = first_term; begin < end; begin += depth, buffer ^= 1) {
    const bool more = begin + depth < end;
    if (more) fetch(begin + depth);
#pragma unroll 4  // unrolled wholly it needs more registers than two blocks leave
    for (int k = 0; k < depth; ++k) {
      float2 a[2], b[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        a[h] = *reinterpret_cast<const float2*>(&a_tiles[buffer][k][h * (tile / 2) + 2 * y]);
        b[h] = *reinterpret_cast<const float2*>(&b_tiles[buffer][k][h * (tile / 2) + 2 * x]);
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

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + offset(y, i);
    if (row >= p.height) continue;
    const Pixel at = of_weights ? Pixel{} : pixel_of(unsigned(row), pixels);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = first_column + offset(x, j);
      if (column >= p.width) continue;
      float sum = sums[i][j];
      if constexpr (of_weights) {
        p.partial[(int64_t(blockIdx.z) * p.height + row) * p.width + column] = sum;
      } else {
        if (p.bias) sum += p.bias[group * group_to + column];
        if (p.relu && sum < 0) sum = 0;
        p.result[dense_at(at, column)] = from_float<T>(sum);
      }
    }
  }
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

template <Pass pass>
int run(const PyconvoptConv& c, const void* gathered, const float* weight, const float* bias, bool relu, void* result,
        void* stream) {
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
                             int(height),
                             int(width),
                             int(terms),
                             1,
                             int(terms),
                             c.input.layout == PYCONVOPT_NHWC,
                             !back};
    return launch(implicit_gemm<T, pass>, grid, threads, stream, product);
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
  return run<Pass::forward>(p.shape, p.input, p.weight, p.bias, p.relu != 0, p.output, stream);
}

int gemm_data_gradient(const PyconvoptConvDataGradient& p, void* stream) {
  return run<Pass::data_gradient>(p.shape, p.output_gradient, p.weight, nullptr, false, p.input_gradient, stream);
}

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
                             int(taps),
                             int(outs),
                             int(rows(output_of(c))),
                             int(splits.count),
                             int(splits.terms),
                             !nhwc,
                             !nhwc};
    return launch(implicit_gemm<T, Pass::weight_gradient>, grid, threads, stream, product);
  });
  if (error) return error;
  const int64_t size = taps * outs * g.groups;
  return launch(merge_splits, dim3(unsigned(ceil_divide(size, block_threads))), block_threads, stream, partial, g,
                int(splits.count), p.weight_gradient);
}

}  // namespace pyconvopt::cuda
