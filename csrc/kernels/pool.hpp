// Max-pooling over NHWC maps, and the gradient of average pooling, whose forward pass torch does at the
// speed of memory.
//
// One byte per pooled element remembers where its maximum lies in the window, row · width + column,
// against the eight bytes of an int64 index.
//
// 2×2 windows with stride 2 are a problem of their own: an odd last row or column belongs to no window.
// Their backward also takes the bytes that a fused convolution or batch normalisation left, where
// `pool_dead` means that ReLU or dropout stopped the gradient.
#pragma once
#include "conv.hpp"
#include "norm.hpp"

namespace pyconvopt {

struct MaxPoolForward {
  MapShape shape;  // of the input
  const float* input;
  float* output = nullptr;
  uint8_t* argmax = nullptr;
};

struct MaxPoolBackward {
  MapShape shape;  // of the input
  const float* output_gradient;
  const uint8_t* argmax;
  float* input_gradient = nullptr;  // every element is written
  float* channel_sum = nullptr;     // Σ of the input's gradient a channel (a convolution's bias gradient), or null
};

// One axis of pooling: window o covers `kernel` pixels from o·stride − padding, cut at the far padding's
// end.
struct PoolAxis {
  int64_t size, pooled, kernel, stride, padding;

  static PoolAxis of(int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
    return {size, (size + 2 * padding - kernel) / stride + 1, kernel, stride, padding};
  }
  int64_t begin(int64_t o) const { return o * stride - padding; }
  // Of window o's pixels those on the axis: from first_inside(o) on, before end_inside(o).
  int64_t first_inside(int64_t o) const { return begin(o) < 0 ? -begin(o) : 0; }
  int64_t end_inside(int64_t o) const {
    const int64_t left = size - begin(o);
    return left < kernel ? left : kernel;
  }
  // Pixels that the mean of window o is over, with or without those of the padding.
  int64_t counted(int64_t o, bool with_padding) const {
    const int64_t end = begin(o) + kernel, limit = with_padding ? size + padding : size;
    const int64_t first = with_padding || begin(o) > 0 ? begin(o) : 0;
    return (end < limit ? end : limit) - first;
  }
  // Windows first_over(i) to last_over(i) cover pixel i.
  int64_t first_over(int64_t i) const { return i + padding < kernel ? 0 : (i + padding - kernel) / stride + 1; }
  int64_t last_over(int64_t i) const {
    const int64_t o = (i + padding) / stride;
    return o < pooled ? o : pooled - 1;
  }
};

inline constexpr int64_t largest_window = 256;  // pixels: positions are bytes

// Max-pooling over windows of any size, which may overlap and reach over the border.
struct WindowPoolForward {
  int64_t batch, channels;
  PoolAxis rows, columns;
  const float* input;
  const InputNorm* norm = nullptr;  // of the input, or null
  float* output = nullptr;
  uint8_t* argmax = nullptr;
};

struct WindowPoolBackward {
  int64_t batch, channels;
  PoolAxis rows, columns;
  const float* output_gradient;
  const uint8_t* argmax;
  float* input_gradient = nullptr;  // every element is written
};

struct AveragePoolBackward {
  int64_t batch, channels;
  PoolAxis rows, columns;
  bool count_padding;
  int64_t divisor;  // 0: the number of pixels
  const float* output_gradient;
  float* input_gradient = nullptr;  // every element is written

  float share(int64_t y, int64_t x) const {
    return 1.0f / float(divisor ? divisor : rows.counted(y, count_padding) * columns.counted(x, count_padding));
  }
};

}  // namespace pyconvopt
