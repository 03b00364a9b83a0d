// The rows of the map that a depthwise convolution reads, and windows of rows that are made once.
#pragma once
#include "depthwise.hpp"
#include "reading.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise {

// A range of channels.
struct Channels {
  int64_t first, count;
};

// Rows that are made where they are first asked for, and kept while a window over an image moves down.
class RowWindow {
 public:
  RowWindow(int64_t rows, int64_t row_floats, float* space)
      : count_(rows),
        row_floats_(row_floats),
        rows_(space),
        held_(reinterpret_cast<int64_t*>(space + rows * row_floats)) {
    for (int64_t i = 0; i < rows; ++i) held_[i] = -1;
  }
  // Of the space for the rows, each in whole cache lines, and for their numbers.
  static int64_t floats(int64_t rows, int64_t row_floats) { return round_up(rows * (row_floats + 2), 16); }

  // Row y of an image, number `line` of the batch; make(to) fills its place.
  template <class Make>
  PYCONVOPT_INLINE float* at(int64_t line, int64_t y, Make make) {
    const int64_t slot = y % count_;
    float* to = rows_ + slot * row_floats_;
    if (held_[slot] != line) {
      held_[slot] = line;
      make(to);
    }
    return to;
  }

 private:
  int64_t count_, row_floats_;
  float* rows_;
  int64_t* held_;
};

// The input's rows, some of their channels, as they lie or, of a batch norm, copied between zeros and normalised on
// the way. Copies are made once, and kept while a window over them moves down; each thread has its own.
class InputRows {
 public:
  InputRows(const ConvShape& s, const float* input, const Reading& reading, Channels channels, float* space)
      : shape_(s),
        input_(input + channels.first),
        reading_(reading),
        channels_(channels),
        copies_(copied() ? window(s) : 0, row_floats(s), space) {
    if (!copied()) return;
    for (int64_t i = 0; i < window(s) * row_floats(s); ++i) space[i] = 0;
  }

  static int64_t window(const ConvShape& s) { return (s.kernel_height - 1) * s.dilation_height + 1; }
  // A row with what is read on both sides of it.
  static int64_t row_pixels(const ConvShape& s) {
    const int64_t read = (s.out_width() - 1) * s.stride_width + (s.kernel_width - 1) * s.dilation_width + 1;
    return greatest(read, s.in_width + s.padding_width);
  }
  static int64_t row_floats(const ConvShape& s) { return round_up(row_pixels(s) * s.in_channels, 16); }
  static int64_t floats(const ConvShape& s) { return RowWindow::floats(window(s), row_floats(s)); }

  bool copied() const { return reading_.changes(); }
  Columns columns() const {
    if (!copied()) return {0, shape_.in_width, shape_.in_channels};
    return {-shape_.padding_width, row_pixels(shape_) - shape_.padding_width, channels_.count};
  }
  // Column 0 of row y of image n.
  const float* at(int64_t n, int64_t y) {
    const float* from = in_place(n, y);
    if (!copied()) return from;
    const int64_t left = shape_.padding_width * channels_.count;
    return left + copies_.at(n * shape_.in_height + y, y, [&](float* to) { copy(from, to + left); });
  }
  const float* in_place(int64_t n, int64_t y) const {
    return input_ + (n * shape_.in_height + y) * shape_.in_width * shape_.in_channels;
  }

 private:
  // Fetches the row below, which is mostly the next to be copied.
  void copy(const float* from, float* to) const {
    reading_.with([&](auto way) {
      for (int64_t x = 0; x < shape_.in_width; ++x)
        for_each_vector(channels_.count, [&](int64_t c, auto part) __attribute__((always_inline)) {
          const Vec value = load(from + x * shape_.in_channels + c, part);
          __builtin_prefetch(from + (shape_.in_width + x) * shape_.in_channels + c, 0, 2);
          store(to + x * channels_.count + c, way.at(channels_.first + c)(value), part);
        });
    });
  }

  const ConvShape& shape_;
  const float* input_;
  const Reading& reading_;
  Channels channels_;
  RowWindow copies_;
};

// Whether the rows of a window are few enough to be copied. In floating point: the product may pass 64 bits.
inline bool can_copy(const ConvShape& s) {
  return double(InputRows::window(s)) * double(InputRows::row_pixels(s)) * double(s.in_channels) <= double(1 << 20);
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::depthwise
