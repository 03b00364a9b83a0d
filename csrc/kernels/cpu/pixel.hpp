// Convolution of images with few channels (the first layer): any kernel size, stride and dilation.
//
// With one to four input channels the channel axis is too short to vectorise; the output channels
// are the vectors instead, and a few neighbouring output pixels the rows of a small product:
//     y[pixel][k] = Σ_tap x[start(pixel) + offset(tap)] · w[tap][k]
// A tap is one of the R·S·C input values under the filter; `offset` is the same for every pixel, so
// nothing is packed. Padding is a zero-padded copy of the image. The weight gradient is the same sum
// over pixels instead of taps.
#pragma once
#include <cstddef>

#include "../conv.hpp"
#include "gemm.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::pixel {

inline constexpr int64_t most_channels = 4, most_taps = 1024;

struct Geometry {
  int64_t height, width;         // of the padded image
  int64_t row_step, pixel_step;  // input floats from one output row, pixel to the next
  int64_t taps, panels;
  int32_t offset[most_taps];

  explicit Geometry(const ConvShape& s)
      : height(s.in_height + 2 * s.padding_height),
        width(s.in_width + 2 * s.padding_width),
        row_step(s.stride_height * width * s.in_channels),
        pixel_step(s.stride_width * s.in_channels),
        taps(0),
        panels((s.out_channels + panel - 1) / panel) {
    for (int64_t r = 0; r < s.kernel_height; ++r)
      for (int64_t q = 0; q < s.kernel_width; ++q)
        for (int64_t c = 0; c < s.in_channels; ++c)
          offset[taps++] = int32_t((r * s.dilation_height * width + q * s.dilation_width) * s.in_channels + c);
  }
  bool padded(const ConvShape& s) const { return height != s.in_height || width != s.in_width; }
  // Floats of the input rows that `rows` output rows read.
  int64_t band_floats(const ConvShape& s, int64_t rows) const {
    return ((rows - 1) * s.stride_height + (s.kernel_height - 1) * s.dilation_height + 1) * width * s.in_channels;
  }
};

inline constexpr int64_t band_rows = 32;  // output rows that are worked on at once

// What output rows y .. y+rows read: the image itself where there is no padding, else a padded copy in `space`.
inline const float* padded_band(const ConvShape& s, const Geometry& g, const float* input, int64_t image, int64_t y,
                                int64_t rows, float* space) {
  const float* from = input + image * s.in_height * s.in_width * s.in_channels;
  if (!g.padded(s)) return from + y * g.row_step;
  const int64_t line = s.in_width * s.in_channels, padded_line = g.width * s.in_channels;
  const int64_t side = s.padding_width * s.in_channels, lines = g.band_floats(s, rows) / padded_line;
  for (int64_t i = 0; i < lines; ++i) {
    float* to = space + i * padded_line;
    const int64_t row = y * s.stride_height + i - s.padding_height;
    if (row < 0 || row >= s.in_height) {
      __builtin_memset(to, 0, std::size_t(padded_line) * sizeof(float));
      continue;
    }
    __builtin_memset(to, 0, std::size_t(side) * sizeof(float));
    __builtin_memcpy(to + side, from + row * line, std::size_t(line) * sizeof(float));
    __builtin_memset(to + side + line, 0, std::size_t(side) * sizeof(float));
  }
  return space;
}

// Whether padded copies are worth their memory (huge padding with a huge stride asks for terabytes),
// and the offsets of taps fit 32 bits. In floating point: the product may pass 64 bits.
inline bool affordable(const ConvShape& s) {
  const double padded = double(s.in_height + 2 * s.padding_height) * double(s.in_width + 2 * s.padding_width);
  const double image = double(s.in_height) * double(s.in_width);
  return padded <= 8 * image + (1 << 18) && padded * double(s.in_channels) <= double(INT32_MAX);
}

inline bool applies(const ConvShape& s) {
  return s.groups == 1 && s.in_channels >= 1 && s.in_channels <= most_channels && s.out_channels >= lanes &&
         s.kernel_height * s.kernel_width * s.in_channels <= most_taps && affordable(s);
}

inline constexpr const char* why = "few input channels: output channels are the vectors, nothing is packed";

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::pixel
