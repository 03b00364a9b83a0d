// The geometry of a convolution, the same for depthwise and dense ones: which pixel of the one map a pixel of
// the other meets at a tap of the kernel.
#pragma once
#include "device.cuh"

namespace pyconvopt::cuda {

// A map by strides, so that both layouts are the same thing to a kernel.
struct StridedMap {
  int height, width, channels;
  int64_t image, pixel, channel;

  StridedMap(const PyconvoptMap& s)
      : height(int(s.height)),
        width(int(s.width)),
        channels(int(s.channels)),
        image(cuda::pixels(s) * s.channels),
        pixel(s.layout == PYCONVOPT_NHWC ? s.channels : 1),
        channel(s.layout == PYCONVOPT_NHWC ? 1 : cuda::pixels(s)) {}
  __host__ __device__ int pixels() const { return height * width; }
};

struct Pixel {
  int image, position, y, x;
};
__device__ __forceinline__ Pixel pixel_of(unsigned index, const StridedMap& map) {
  const unsigned image = index / unsigned(map.pixels()), position = index - image * unsigned(map.pixels());
  const unsigned y = position / unsigned(map.width);
  return {int(image), int(position), int(y), int(position - y * unsigned(map.width))};
}

inline PyconvoptMap output_of(const PyconvoptConv& c) {
  PyconvoptMap output = c.input;
  output.channels = c.out_channels;
  output.height =
      (c.input.height + 2 * c.padding_height - c.dilation_height * (c.kernel_height - 1) - 1) / c.stride_height + 1;
  output.width =
      (c.input.width + 2 * c.padding_width - c.dilation_width * (c.kernel_width - 1) - 1) / c.stride_width + 1;
  return output;
}

// Along one axis: the source of a position at a tap is position · stride − padding + tap · dilation going from
// output to input; going back it is that output, if there is one, whose source at the tap is the position.
struct Axis {
  int stride, padding, dilation;

  template <bool back>
  __device__ __forceinline__ bool source(int position, int tap, int size, int& at) const {
    if constexpr (back) {
      const int whole = position + padding - tap * dilation;
      at = whole / stride;
      return whole >= 0 && at * stride == whole && at < size;
    } else {
      at = position * stride - padding + tap * dilation;
      return at >= 0 && at < size;
    }
  }
};

struct Geometry {
  StridedMap input, output;
  int kernel_height, kernel_width, groups;
  Axis vertical, horizontal;
  int64_t weight_out_channel, weight_in_channel, weight_row, weight_column;

  explicit Geometry(const PyconvoptConv& c)
      : input(c.input),
        output(output_of(c)),
        kernel_height(int(c.kernel_height)),
        kernel_width(int(c.kernel_width)),
        groups(int(c.groups)),
        vertical{int(c.stride_height), int(c.padding_height), int(c.dilation_height)},
        horizontal{int(c.stride_width), int(c.padding_width), int(c.dilation_width)},
        weight_out_channel(c.weight_out_channel),
        weight_in_channel(c.weight_in_channel),
        weight_row(c.weight_row),
        weight_column(c.weight_column) {}
  __host__ __device__ int taps() const { return kernel_height * kernel_width; }
};

inline bool is_depthwise(const PyconvoptConv& c) { return c.groups == c.input.channels && c.groups == c.out_channels; }

int depthwise_forward(const PyconvoptConvForward& p, void* stream);
int depthwise_data_gradient(const PyconvoptConvDataGradient& p, void* stream);
int depthwise_weight_gradient(const PyconvoptConvWeightGradient& p, void* stream);
int64_t depthwise_workspace(const PyconvoptConv& shape);
int gemm_forward(const PyconvoptConvForward& p, void* stream);
int gemm_data_gradient(const PyconvoptConvDataGradient& p, void* stream);
int gemm_weight_gradient(const PyconvoptConvWeightGradient& p, void* stream);
int64_t gemm_workspace(const PyconvoptConv& shape);
int64_t gemm_moments(const PyconvoptConv& shape);

}  // namespace pyconvopt::cuda
