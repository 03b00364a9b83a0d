// 2×2 max-pooling with stride 2; an odd last row or column belongs to no window.
//
// One byte per pooled element remembers where its maximum lies, 0..3 as 2·row + column. A thread row of a
// block takes a line of the map, so that an element is divided into pixel and channel with 32 bits only.
// The backward goes over the input's elements: each is written once, and what no window covers is 0.
#include "device.cuh"

namespace pyconvopt::cuda {
namespace {

constexpr int line_threads = 32, block_lines = 8;

// A map as planes of lines of pixels of `pixel` elements: an image (NHWC) or a channel of it (NCHW).
struct Lines {
  int64_t planes;
  int height, width, pixel;
  int pooled_height, pooled_width;

  explicit Lines(const PyconvoptMap& s)
      : planes(s.layout == PYCONVOPT_NHWC ? s.batch : s.batch * s.channels),
        height(int(s.height)),
        width(int(s.width)),
        pixel(s.layout == PYCONVOPT_NHWC ? int(s.channels) : 1),
        pooled_height(height / 2),
        pooled_width(width / 2) {}
  __host__ __device__ int64_t line() const { return int64_t(width) * pixel; }
  __host__ __device__ int64_t pooled_line() const { return int64_t(pooled_width) * pixel; }
};

dim3 lines_grid(int64_t lines, int64_t line, int vector) {
  return dim3(unsigned(most(1, least(ceil_divide(lines, block_lines), 1 << 20))),
              unsigned(most(1, least(ceil_divide(line, 4 * vector * line_threads), 1 << 15))));
}

template <class T, int vector>
struct alignas(vector * sizeof(T)) Elements {
  T value[vector];
};

template <class T, int vector>
__global__ void __launch_bounds__(line_threads* block_lines)
    pool(const T* input, T* output, uint8_t* argmax, Lines lines) {
  using Values = Elements<T, vector>;
  using Bytes = Elements<uint8_t, vector>;
  const int64_t count = lines.planes * lines.pooled_height;
  for (int64_t line = int64_t(blockIdx.x) * block_lines + threadIdx.y; line < count; line += gridDim.x * block_lines) {
    const int64_t plane = line / lines.pooled_height;
    const T* from = input + (plane * lines.height + (line - plane * lines.pooled_height) * 2) * lines.line();
    const int64_t to = line * lines.pooled_line();
    for (unsigned i = (blockIdx.y * line_threads + threadIdx.x) * vector; i < lines.pooled_line();
         i += gridDim.y * line_threads * vector) {
      const T* window = from + i + i / unsigned(lines.pixel) * int64_t(lines.pixel);
      Values best = *reinterpret_cast<const Values*>(window);
      Bytes position = {};
#pragma unroll
      for (int p = 1; p < 4; ++p) {
        const Values other =
            *reinterpret_cast<const Values*>(window + p / 2 * lines.line() + p % 2 * int64_t(lines.pixel));
#pragma unroll
        for (int k = 0; k < vector; ++k) {
          const float value = to_float(other.value[k]);
          if (value > to_float(best.value[k]) || value != value)  // the first of equals; NaN wins
            best.value[k] = other.value[k], position.value[k] = uint8_t(p);
        }
      }
      *reinterpret_cast<Values*>(output + to + i) = best;
      *reinterpret_cast<Bytes*>(argmax + to + i) = position;
    }
  }
}

template <class T, int vector>
__global__ void __launch_bounds__(line_threads* block_lines)
    spread(const T* gradient, const uint8_t* argmax, T* to, Lines lines) {
  using Values = Elements<T, vector>;
  using Bytes = Elements<uint8_t, vector>;
  const int64_t count = lines.planes * lines.height;
  for (int64_t line = int64_t(blockIdx.x) * block_lines + threadIdx.y; line < count; line += gridDim.x * block_lines) {
    const int64_t plane = line / lines.height;
    const int row = int(line - plane * lines.height);
    const int64_t pooled = (plane * lines.pooled_height + row / 2) * lines.pooled_line();
    for (unsigned i = (blockIdx.y * line_threads + threadIdx.x) * vector; i < lines.line();
         i += gridDim.y * line_threads * vector) {
      const unsigned x = i / unsigned(lines.pixel), channel = i - x * unsigned(lines.pixel);
      Values result;
#pragma unroll
      for (int k = 0; k < vector; ++k) result.value[k] = from_float<T>(0);
      if (row / 2 < lines.pooled_height && int(x / 2) < lines.pooled_width) {
        const int64_t at = pooled + x / 2 * int64_t(lines.pixel) + channel;
        const Values g = *reinterpret_cast<const Values*>(gradient + at);
        const Bytes position = *reinterpret_cast<const Bytes*>(argmax + at);
#pragma unroll
        for (int k = 0; k < vector; ++k)
          if (position.value[k] == row % 2 * 2 + int(x % 2)) result.value[k] = g.value[k];
      }
      *reinterpret_cast<Values*>(to + line * lines.line() + i) = result;
    }
  }
}

// A line is counted in 32 bits, with the step of a whole grid beyond its end.
int check_lines(const PyconvoptMap& s) {
  if (const int error = check(s)) return error;
  const int64_t pixel = s.layout == PYCONVOPT_NHWC ? s.channels : 1;
  return pixel && s.width >= (int64_t(1) << 31) / pixel ? PYCONVOPT_CUDA_TOO_LARGE : 0;
}

bool fours(const PyconvoptMap& s, const uint8_t* argmax) {
  return s.layout == PYCONVOPT_NHWC && s.channels % 4 == 0 && aligned(argmax);
}

}  // namespace
}  // namespace pyconvopt::cuda

int pyconvopt_cuda_max_pool_forward(const PyconvoptMaxPoolForward* p, void* stream) {
  using namespace pyconvopt::cuda;
  if (const int error = check_lines(p->shape)) return error;
  const Lines lines(p->shape);
  const int64_t count = lines.planes * lines.pooled_height, line = lines.pooled_line();
  if (count * line == 0) return 0;
  return with_type(p->shape.type, [&]<class T>() {
    const T* input = static_cast<const T*>(p->input);
    T* output = static_cast<T*>(p->output);
    const bool four = fours(p->shape, p->argmax) && aligned(input) && aligned(output);
    return launch(four ? pool<T, 4> : pool<T, 1>, lines_grid(count, line, four ? 4 : 1),
                  dim3(line_threads, block_lines), stream, input, output, p->argmax, lines);
  });
}

int pyconvopt_cuda_max_pool_backward(const PyconvoptMaxPoolBackward* p, void* stream) {
  using namespace pyconvopt::cuda;
  if (const int error = check_lines(p->shape)) return error;
  const Lines lines(p->shape);
  const int64_t count = lines.planes * lines.height, line = lines.line();
  if (count * line == 0) return 0;
  return with_type(p->shape.type, [&]<class T>() {
    const T* gradient = static_cast<const T*>(p->output_gradient);
    T* to = static_cast<T*>(p->input_gradient);
    const bool four = fours(p->shape, p->argmax) && aligned(gradient) && aligned(to);
    return launch(four ? spread<T, 4> : spread<T, 1>, lines_grid(count, line, four ? 4 : 1),
                  dim3(line_threads, block_lines), stream, gradient, p->argmax, to, lines);
  });
}
