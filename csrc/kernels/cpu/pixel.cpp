// Convolution of images with few channels (the first layer): any kernel size, stride and dilation.
//
// With one to four input channels the channel axis is too short to vectorise; the output channels
// are the vectors instead, and a few neighbouring output pixels the rows of a small product:
//     y[pixel][k] = Σ_tap x[start(pixel) + offset(tap)] · w[tap][k]
// A tap is one of the R·S·C input values under the filter; `offset` is the same for every pixel, so
// nothing is packed. Padding is a zero-padded copy of the image. The weight gradient is the same sum
// over pixels instead of taps.
#include <omp.h>

#include "../arena.hpp"
#include "../conv.hpp"
#include "gemm.hpp"
#include "pool2x2.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace pixel {
namespace {

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
  int64_t floats(const ConvShape& s) const { return height * width * s.in_channels; }
};

// The image itself where there is no padding, else a padded copy in `space`.
const float* padded_image(const ConvShape& s, const Geometry& g, const float* input, int64_t image, float* space) {
  const float* from = input + image * s.in_height * s.in_width * s.in_channels;
  if (!g.padded(s)) return from;
  const int64_t line = s.in_width * s.in_channels, padded_line = g.width * s.in_channels;
  for (int64_t y = 0; y < g.height; ++y) {
    float* to = space + y * padded_line;
    const int64_t row = y - s.padding_height, side = s.padding_width * s.in_channels;
    const bool inside = row >= 0 && row < s.in_height;
    for (int64_t i = 0; i < padded_line; ++i)
      to[i] = inside && i >= side && i < side + line ? from[row * line + i - side] : 0.0f;
  }
  return space;
}

// `rows` pixels of one output row × one panel.
template <int rows>
PYCONVOPT_INLINE void pixels_times_taps(const float* x, const Geometry& g, const float* w, float* y, int64_t y_step,
                                        const Vec* bias, bool clamp) {
  Vec sum[rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) sum[r][0] = bias[0], sum[r][1] = bias[1];
  for (int64_t t = 0; t < g.taps; ++t) {
    const Vec w0 = load(w + t * panel), w1 = load(w + t * panel + lanes);
    const float* from = x + g.offset[t];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Vec value = broadcast(from[r * g.pixel_step]);
      sum[r][0] += value * w0;
      sum[r][1] += value * w1;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    store(y + r * y_step, clamp ? relu(sum[r][0]) : sum[r][0]);
    store(y + r * y_step + lanes, clamp ? relu(sum[r][1]) : sum[r][1]);
  }
}

// One output row for one panel into y[pixel][y_step].
void convolve_row(const ConvShape& s, const Geometry& g, const float* row, const float* w, float* y, int64_t y_step,
                  const Vec* bias, bool clamp) {
  const int64_t width = s.out_width();
  int64_t x = 0;
  for (; x + product_rows <= width; x += product_rows)
    pixels_times_taps<product_rows>(row + x * g.pixel_step, g, w, y + x * y_step, y_step, bias, clamp);
  if (x < width)
    with_rows<product_rows>(int(width - x), [&]<int n>() {
      pixels_times_taps<n>(row + x * g.pixel_step, g, w, y + x * y_step, y_step, bias, clamp);
    });
}

void pack_weights(const ConvForward& p, const Geometry& g, float* packed) {
  const ConvShape& s = p.shape;
  for (int64_t k = 0; k < g.panels * panel; ++k)
    for (int64_t t = 0; t < g.taps; ++t) {
      const int64_t c = t % s.in_channels, q = t / s.in_channels % s.kernel_width,
                    r = t / s.in_channels / s.kernel_width;
      packed[(k / panel * g.taps + t) * panel + k % panel] =
          k < s.out_channels ? p.weight[k * p.weight_strides.out_channel + c * p.weight_strides.in_channel +
                                        r * p.weight_strides.row + q * p.weight_strides.column]
                             : 0.0f;
    }
}

// Two rows of outputs (before the activation) to one row of 2×2 maxima.
void pool_rows(const ConvForward& p, const float* rows, int64_t row_floats, int64_t k0, float* output,
               uint8_t* argmax) {
  const ConvShape& s = p.shape;
  for (int64_t x = 0; x < s.out_width() / 2; ++x)
    for (int half = 0; half < 2; ++half) {
      const int64_t k = k0 + half * lanes, left = s.out_channels - k;
      if (left <= 0) break;
      const float* window = rows + 2 * x * panel + half * lanes;
      const Vec pixels[4] = {load(window), load(window + panel), load(window + row_floats),
                             load(window + row_floats + panel)};
      const int64_t at = x * s.out_channels + k;
      store_window(pixels, p.activation, output + at, argmax + at, left);
    }
}

void forward(const ConvForward& p) {
  const ConvShape& s = p.shape;
  const Geometry g(s);
  const int threads = omp_get_max_threads();
  const int64_t out_width = s.out_width(), row_floats = out_width * panel;
  const int64_t rows = p.pool ? s.out_height() / 2 : s.out_height();  // of the result
  const int64_t width = p.pool ? out_width / 2 : out_width;
  Workspace space(Workspace::bytes_for(g.panels * g.taps * panel) +
                  threads * (Workspace::bytes_for(g.floats(s)) + Workspace::bytes_for(2 * row_floats)));
  float* weights = space.floats(g.panels * g.taps * panel);
  float* images = space.floats(threads * round_up(g.floats(s), 16));
  float* buffers = space.floats(threads * round_up(2 * row_floats, 16));
  pack_weights(p, g, weights);
  const bool straight = !p.pool && s.out_channels % panel == 0;  // whole panels are stored in place
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t n = 0; n < s.batch; ++n) {
    const FlushDenormals flush;
    const int thread = omp_get_thread_num();
    const float* image = padded_image(s, g, p.input, n, images + thread * round_up(g.floats(s), 16));
    float* buffer = buffers + thread * round_up(2 * row_floats, 16);
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t k = 0; k < g.panels; ++k) {
        const int64_t at = (n * rows + y) * width * s.out_channels, k0 = k * panel;
        const float* w = weights + k * g.taps * panel;
        Vec bias[2] = {};
        if (p.bias) {
          bias[0] = load_channels(p.bias + k0, s.out_channels - k0);
          if (k0 + lanes < s.out_channels) bias[1] = load_channels(p.bias + k0 + lanes, s.out_channels - k0 - lanes);
        }
        const bool clamp = p.activation == Activation::relu && !p.pool;
        if (straight) {
          convolve_row(s, g, image + y * g.row_step, w, p.output + at + k0, s.out_channels, bias, clamp);
        } else if (p.pool) {
          convolve_row(s, g, image + 2 * y * g.row_step, w, buffer, panel, bias, clamp);
          convolve_row(s, g, image + (2 * y + 1) * g.row_step, w, buffer + row_floats, panel, bias, clamp);
          pool_rows(p, buffer, row_floats, k0, p.output + at, p.argmax + at);
        } else {
          convolve_row(s, g, image + y * g.row_step, w, buffer, panel, bias, clamp);
          for (int64_t x = 0; x < width; ++x)
            for (int half = 0; half < 2; ++half)
              if (const int64_t c = k0 + half * lanes; c < s.out_channels)
                store_channels(p.output + at + x * s.out_channels + c, load(buffer + x * panel + half * lanes),
                               s.out_channels - c);
        }
      }
  }
}

// Σ over the pixels of some rows of x[pixel + offset(tap)] · g[pixel][k], for `taps` taps × one panel.
template <int taps>
PYCONVOPT_INLINE void taps_times_pixels(const float* x, const Geometry& g, const int32_t* offset, const float* gradient,
                                        int64_t gradient_step, int64_t width, int64_t rows, int64_t gradient_row,
                                        float* sums) {
  Vec sum[taps][2];
  const float* from[taps];
#pragma GCC unroll 16
  for (int t = 0; t < taps; ++t) sum[t][0] = sum[t][1] = Vec{};
  for (int64_t y = 0; y < rows; ++y) {
#pragma GCC unroll 16
    for (int t = 0; t < taps; ++t) from[t] = x + y * g.row_step + offset[t];
    const float* line = gradient + y * gradient_row;
    for (int64_t pixel = 0; pixel < width; ++pixel) {
      const Vec g0 = load(line + pixel * gradient_step), g1 = load(line + pixel * gradient_step + lanes);
#pragma GCC unroll 16
      for (int t = 0; t < taps; ++t) {
        const Vec value = broadcast(from[t][pixel * g.pixel_step]);
        sum[t][0] += value * g0;
        sum[t][1] += value * g1;
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < taps; ++t) {
    store(sums + t * panel, sum[t][0]);
    store(sums + t * panel + lanes, sum[t][1]);
  }
}

// The gradient of some output rows for one panel, zeros behind the last channel, into buffer[pixel][panel].
void copy_panel(const ConvShape& s, const float* lines, int64_t k0, int64_t pixels, float* buffer) {
  for (int64_t i = 0; i < pixels; ++i)
    for (int half = 0; half < 2; ++half) {
      const int64_t k = k0 + half * lanes, left = s.out_channels - k;
      store(buffer + i * panel + half * lanes, left > 0 ? load_channels(lines + i * s.out_channels + k, left) : Vec{});
    }
}

// The same from a pooled gradient: rows first.. (even) of the map before the pool; adds to the bias sums.
void spread_panel(const ConvWeightGradient& p, int64_t image, int64_t first, int64_t rows, int64_t k0, float* buffer,
                  float* bias_sums) {
  const ConvShape& s = p.shape;
  const int64_t height = s.out_height() / 2, width = s.out_width() / 2, row_floats = s.out_width() * panel;
  for (int64_t i = 0; i < rows * row_floats; i += lanes) store(buffer + i, Vec{});
  for (int half = 0; half < 2; ++half) {
    const int64_t k = k0 + half * lanes, left = s.out_channels - k;
    if (left <= 0) break;
    Vec sum = load(bias_sums + half * lanes);
    for (int64_t y = first / 2; y < least(height, (first + rows) / 2); ++y)
      for (int64_t x = 0; x < width; ++x) {
        const int64_t at = ((image * height + y) * width + x) * s.out_channels + k;
        const Vec gradient = load_channels(p.output_gradient + at, left);
        const IVec position =
            left >= lanes ? load_bytes(p.argmax + at, Whole{}) : load_bytes(p.argmax + at, First{int(left)});
        float* window = buffer + (2 * y - first) * row_floats + 2 * x * panel + half * lanes;
        sum += position < int(pool_dead) ? gradient : Vec{};
        store(window, position == 0 ? gradient : Vec{});
        store(window + panel, position == 1 ? gradient : Vec{});
        store(window + row_floats, position == 2 ? gradient : Vec{});
        store(window + row_floats + panel, position == 3 ? gradient : Vec{});
      }
    store(bias_sums + half * lanes, sum);
  }
}

// Partial sums are taken over fixed units of an image's rows and added in their order. Behind the
// taps of each panel lies one more line: the sums of the gradient itself, which are the bias's.
void weight_gradient(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  const Geometry g(s);
  const int threads = omp_get_max_threads();
  constexpr int64_t unit_rows = 32, tap_group = vector_registers == 32 ? 9 : 5;
  const int64_t units = (s.out_height() + unit_rows - 1) / unit_rows, width = s.out_width();
  const int64_t lines = g.taps + 1, sums_size = g.panels * lines * panel;
  const int64_t buffer_size = round_up(least(unit_rows, s.out_height()) * width * panel, 16);
  const bool straight = s.out_channels % panel == 0 && !p.argmax;
  // Images are summed by groups, so that partial sums stay few for large batches.
  const int64_t group = (s.batch + 63) / 64, groups = (s.batch + group - 1) / group;
  Workspace space(Workspace::bytes_for(threads * sums_size) + Workspace::bytes_for(groups * sums_size) +
                  Workspace::bytes_for(threads * round_up(g.floats(s), 16)) +
                  Workspace::bytes_for(threads * buffer_size));
  float* partial = space.floats(groups * sums_size);
  float* unit_sums = space.floats(threads * sums_size);
  float* images = space.floats(threads * round_up(g.floats(s), 16));
  float* buffers = space.floats(threads * buffer_size);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t b = 0; b < groups; ++b) {
    const FlushDenormals flush;
    const int thread = omp_get_thread_num();
    float* sums = unit_sums + thread * sums_size;
    float* total = partial + b * sums_size;
    float* buffer = buffers + thread * buffer_size;
    for (int64_t i = 0; i < sums_size; ++i) total[i] = 0;
    for (int64_t n = b * group; n < least(s.batch, (b + 1) * group); ++n) {
      const float* image = padded_image(s, g, p.input, n, images + thread * round_up(g.floats(s), 16));
      for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t y = unit * unit_rows, rows = least(unit_rows, s.out_height() - y);
        const float* map = p.output_gradient + (n * s.out_height() + y) * width * s.out_channels;
        for (int64_t i = 0; i < sums_size; ++i) sums[i] = 0;
        for (int64_t k = 0; k < g.panels; ++k) {
          float* panel_sums = sums + k * lines * panel;
          const float* gradient = straight ? map + k * panel : buffer;
          const int64_t gradient_step = straight ? s.out_channels : panel;
          if (p.argmax) spread_panel(p, n, y, rows, k * panel, buffer, panel_sums + g.taps * panel);
          else if (!straight) copy_panel(s, map, k * panel, rows * width, buffer);
          for (int64_t t = 0; t < g.taps; t += tap_group)
            with_rows<int(tap_group)>(int(least(tap_group, g.taps - t)), [&]<int n_taps>() {
              taps_times_pixels<n_taps>(image + y * g.row_step, g, g.offset + t, gradient, gradient_step, width, rows,
                                        width * gradient_step, panel_sums + t * panel);
            });
        }
        for (int64_t i = 0; i < sums_size; ++i) total[i] += sums[i];
      }
    }
  }
  const auto sum_of = [&](int64_t k, int64_t line) {
    double sum = 0;
    for (int64_t b = 0; b < groups; ++b) sum += partial[b * sums_size + (k / panel * lines + line) * panel + k % panel];
    return float(sum);
  };
  for (int64_t k = 0; k < s.out_channels; ++k) {
    for (int64_t t = 0; t < g.taps; ++t) {
      const int64_t c = t % s.in_channels, q = t / s.in_channels % s.kernel_width,
                    r = t / s.in_channels / s.kernel_width;
      p.weight_gradient[k * p.weight_strides.out_channel + c * p.weight_strides.in_channel + r * p.weight_strides.row +
                        q * p.weight_strides.column] = sum_of(k, t);
    }
    if (p.bias_gradient) p.bias_gradient[k] = sum_of(k, g.taps);
  }
}

bool applies(const ConvShape& s) {
  return s.groups == 1 && s.in_channels <= most_channels && s.out_channels >= lanes &&
         s.kernel_height * s.kernel_width * s.in_channels <= most_taps;
}
bool forward_applies(const ConvForward& p) { return applies(p.shape); }
bool weight_gradient_applies(const ConvWeightGradient& p) { return applies(p.shape); }

}  // namespace
}  // namespace pixel

constexpr const char* why = "few input channels: output channels are the vectors, nothing is packed";
extern const Kernel<ConvForward> pixel_forward;
const Kernel<ConvForward> pixel_forward{"pixel", why, pixel::forward_applies, pixel::forward};
extern const Kernel<ConvWeightGradient> pixel_weight_gradient;
const Kernel<ConvWeightGradient> pixel_weight_gradient{"pixel", why, pixel::weight_gradient_applies,
                                                       pixel::weight_gradient};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
