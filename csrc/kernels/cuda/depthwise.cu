// Depthwise convolution: every channel by a kernel of its own, k² multiplications an element, so that the maps'
// way through memory decides; the taps of a pixel find their neighbours in the cache.
//
// Forward and data gradient are one kernel, a thread an element, lanes along the layout's neighbours. In NHWC these
// have channels of their own, whose weights lie a kernel apart: 32 sectors a load. So the threads step by a multiple
// of the channels, and the weights of a thread's one channel wait in shared memory. The weight
// gradient sums output gradient times input over all pixels, nine taps in registers at a time (a 3×3 kernel:
// all), in the two stages of reduce.cuh.
#include <numeric>

#include "conv.cuh"
#include "reduce.cuh"

namespace pyconvopt::cuda {
namespace {

constexpr int line_threads = 32, block_lines = 8;
constexpr int tap_group = 9;
constexpr int staged_taps = 49;  // a 7×7 kernel; larger ones are read where they lie

// From `from` to `to`: input to output, or back. A line is a row of pixels, of all channels (NHWC) or of one.
template <class T, bool back, bool staged>
__global__ void __launch_bounds__(line_threads* block_lines, 4)
    depthwise(const T* source, Geometry g, const float* weight, const float* bias, bool relu, T* result,
              int64_t lines) {
  const StridedMap &from = back ? g.output : g.input, &to = back ? g.input : g.output;
  const bool all_channels = to.channel == 1;
  const int pixel = all_channels ? to.channels : 1;
  __shared__ float taps[staged ? staged_taps : 1][line_threads];
  if constexpr (staged) {
    const int64_t channel = (int64_t(blockIdx.y) * line_threads + threadIdx.x) % pixel;
    for (int tap = int(threadIdx.y); tap < g.taps(); tap += block_lines)
      taps[tap][threadIdx.x] = weight[channel * g.weight_out_channel + tap / g.kernel_width * g.weight_row +
                                      tap % g.kernel_width * g.weight_column];
    __syncthreads();
  }
  for (int64_t line = int64_t(blockIdx.x) * block_lines + threadIdx.y; line < lines;
       line += int64_t(gridDim.x) * block_lines) {
    const int64_t plane = line / to.height;
    const int y = int(line - plane * to.height);
    const int64_t image = all_channels ? plane : plane / to.channels;
    const int64_t plane_channel = all_channels ? 0 : plane - image * to.channels;
    for (int64_t i = int64_t(blockIdx.y) * line_threads + threadIdx.x; i < int64_t(to.width) * pixel;
         i += int64_t(gridDim.y) * line_threads) {
      const int x = int(unsigned(i) / unsigned(pixel));
      const int64_t channel = plane_channel + (i - int64_t(x) * pixel);
      const T* map = source + image * from.image + channel * from.channel;
      const float* kernel = weight + channel * g.weight_out_channel;
      float sum = bias ? bias[channel] : 0.0f;
      for (int r = 0; r < g.kernel_height; ++r) {
        int sy, sx;
        if (!g.vertical.source<back>(y, r, from.height, sy)) continue;
        for (int q = 0; q < g.kernel_width; ++q) {
          if (!g.horizontal.source<back>(x, q, from.width, sx)) continue;
          const float tap =
              staged ? taps[r * g.kernel_width + q][threadIdx.x] : kernel[r * g.weight_row + q * g.weight_column];
          sum = fmaf(to_float(map[(int64_t(sy) * from.width + sx) * from.pixel]), tap, sum);
        }
      }
      if (relu && sum < 0) sum = 0;
      result[image * to.image + channel * to.channel + (int64_t(y) * to.width + x) * to.pixel] = from_float<T>(sum);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    weight_sums(const T* input, const T* gradient, Geometry g, Chunks chunks, float* partial) {
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x), channels = g.output.channels;
  const int first = int(blockIdx.z) * tap_group;
  float sums[tap_group] = {};
  const int64_t end = channel < channels ? chunks.end(blockIdx.y) : 0;
  for (int64_t row = chunks.begin(blockIdx.y) + threadIdx.y; row < end; row += blockDim.y) {
    const Pixel p = pixel_of(unsigned(row), g.output);
    const float of =
        to_float(gradient[p.image * g.output.image + p.position * g.output.pixel + channel * g.output.channel]);
    const T* map = input + p.image * g.input.image + channel * g.input.channel;
    int r = first / g.kernel_width, q = first % g.kernel_width;
#pragma unroll
    for (int k = 0; k < tap_group; ++k) {
      int y, x;
      const bool inside = r < g.kernel_height && g.vertical.source<false>(p.y, r, g.input.height, y) &&
                          g.horizontal.source<false>(p.x, q, g.input.width, x);
      if (inside) sums[k] = fmaf(of, to_float(map[(int64_t(y) * g.input.width + x) * g.input.pixel]), sums[k]);
      if (++q == g.kernel_width) q = 0, ++r;
    }
  }
  merge_block(sums, [](float (&a)[tap_group], const float (&b)[tap_group]) {
#pragma unroll
    for (int k = 0; k < tap_group; ++k) a[k] += b[k];
  });
  if (threadIdx.y > 0 || channel >= channels) return;
#pragma unroll
  for (int k = 0; k < tap_group; ++k)
    if (first + k < g.taps()) partial[(int64_t(blockIdx.y) * g.taps() + first + k) * channels + channel] = sums[k];
}

__global__ void __launch_bounds__(block_threads)
    finish_weights(const float* partial, Geometry g, Chunks chunks, float* to) {
  const int64_t i = int64_t(blockIdx.x) * block_threads + threadIdx.x, count = int64_t(g.taps()) * g.output.channels;
  if (i >= count) return;
  double sum = 0;
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) sum += partial[chunk * count + i];
  const int tap = int(i / g.output.channels), channel = int(i % g.output.channels);
  to[channel * g.weight_out_channel + tap / g.kernel_width * g.weight_row + tap % g.kernel_width * g.weight_column] =
      float(sum);
}

template <bool back>
int run(const PyconvoptConv& c, const void* source, const float* weight, const float* bias, bool relu, void* result,
        void* stream) {
  const Geometry g(c);
  const StridedMap& to = back ? g.input : g.output;
  const bool nhwc = c.input.layout == PYCONVOPT_NHWC;
  const int64_t lines = c.input.batch * to.height * (nhwc ? 1 : to.channels);
  const int64_t line = int64_t(to.width) * (nhwc ? to.channels : 1);
  if (line >= int64_t(1) << 31) return PYCONVOPT_CUDA_TOO_LARGE;
  const int64_t repeat = to.channels / std::gcd(int64_t(to.channels), int64_t(line_threads));
  const bool staged = nhwc && g.taps() <= staged_taps && repeat * line_threads <= line && repeat < 1 << 15;
  const dim3 grid(unsigned(least(ceil_divide(lines, block_lines), 1 << 20)),
                  unsigned(staged ? repeat : least(ceil_divide(line, line_threads), 1 << 15)));
  return with_type(c.input.type, [&]<class T>() {
    return launch(staged ? depthwise<T, back, true> : depthwise<T, back, false>, grid, dim3(line_threads, block_lines),
                  stream, static_cast<const T*>(source), g, weight, bias, relu, static_cast<T*>(result), lines);
  });
}

}  // namespace

int depthwise_forward(const PyconvoptConvForward& p, void* stream) {
  return run<false>(p.shape, p.input, p.weight, p.bias, p.relu != 0, p.output, stream);
}

int depthwise_data_gradient(const PyconvoptConvDataGradient& p, void* stream) {
  return run<true>(p.shape, p.output_gradient, p.weight, nullptr, false, p.input_gradient, stream);
}

int64_t depthwise_workspace(const PyconvoptConv& shape) {
  const PyconvoptMap output = output_of(shape);
  return Chunks(output).count * shape.kernel_height * shape.kernel_width * output.channels * int64_t(sizeof(float));
}

int depthwise_weight_gradient(const PyconvoptConvWeightGradient& p, void* stream) {
  const Geometry g(p.shape);
  const PyconvoptMap output = output_of(p.shape);
  const Chunks chunks(output);
  float* partial = static_cast<float*>(p.workspace);
  const bool nhwc = output.layout == PYCONVOPT_NHWC;
  dim3 grid = nhwc ? rows_grid(chunks, output.channels, 1) : dim3(unsigned(output.channels), unsigned(chunks.count));
  grid.z = unsigned(ceil_divide(g.taps(), tap_group));
  if (grid.z > 65535) return PYCONVOPT_CUDA_TOO_LARGE;
  if (chunks.count) {
    const int error = with_type(output.type, [&]<class T>() {
      return launch(weight_sums<T>, grid, nhwc ? rows_block(output.channels, 1) : dim3(1, block_threads), stream,
                    static_cast<const T*>(p.input), static_cast<const T*>(p.output_gradient), g, chunks, partial);
    });
    if (error) return error;
  }
  return launch(finish_weights, dim3(unsigned(ceil_divide(g.taps() * output.channels, block_threads))), block_threads,
                stream, partial, g, chunks, p.weight_gradient);
}

}  // namespace pyconvopt::cuda
