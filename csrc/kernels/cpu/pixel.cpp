// The forward pass of convolution for images with few channels, with 2×2 max-pooling if asked for.
// (The method: pixel.hpp.)
#include "pixel.hpp"

#include <omp.h>

#include "../arena.hpp"
#include "pool2x2.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace pixel {
namespace {

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

// Two rows × `columns` pixels of outputs for one panel, pooled while they are in registers.
template <int columns>
PYCONVOPT_INLINE void windows_times_taps(const ConvForward& p, const float* x, const Geometry& g, const float* w,
                                         const Vec* bias, int64_t k0, float* output, uint8_t* argmax) {
  Vec sum[2][columns][2];
#pragma GCC unroll 16
  for (int i = 0; i < columns; ++i)
#pragma GCC unroll 2
    for (int row = 0; row < 2; ++row) sum[row][i][0] = bias[0], sum[row][i][1] = bias[1];
  for (int64_t t = 0; t < g.taps; ++t) {
    const Vec w0 = load(w + t * panel), w1 = load(w + t * panel + lanes);
    const float *upper = x + g.offset[t], *lower = upper + g.row_step;
#pragma GCC unroll 16
    for (int i = 0; i < columns; ++i) {
      const Vec above = broadcast(upper[i * g.pixel_step]), below = broadcast(lower[i * g.pixel_step]);
      sum[0][i][0] += above * w0;
      sum[0][i][1] += above * w1;
      sum[1][i][0] += below * w0;
      sum[1][i][1] += below * w1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < columns; i += 2)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
      if (const int64_t k = k0 + half * lanes, left = p.shape.out_channels - k; left > 0) {
        const Vec pixels[4] = {sum[0][i][half], sum[0][i + 1][half], sum[1][i][half], sum[1][i + 1][half]};
        const int64_t at = i / 2 * p.shape.out_channels + k;
        store_window(pixels, p.activation, output + at, argmax + at, left);
      }
}

// A row of the pooled map for one panel.
void convolve_windows(const ConvForward& p, const Geometry& g, const float* rows, const float* w, const Vec* bias,
                      int64_t k0, float* output, uint8_t* argmax) {
  constexpr int most = product_rows / 4;  // windows at once
  const int64_t windows = p.shape.out_width() / 2;
  for (int64_t x = 0; x < windows; x += most)
    with_rows<most>(int(least(most, windows - x)), [&]<int n>() {
      windows_times_taps<2 * n>(p, rows + 2 * x * g.pixel_step, g, w, bias, k0, output + x * p.shape.out_channels,
                                argmax + x * p.shape.out_channels);
    });
}

void forward(const ConvForward& p) {
  const ConvShape& s = p.shape;
  const Geometry g(s);
  const int threads = omp_get_max_threads();
  const int64_t out_width = s.out_width(), row_floats = out_width * panel;
  const int64_t rows = p.pool ? s.out_height() / 2 : s.out_height();  // of the result
  const int64_t width = p.pool ? out_width / 2 : out_width;
  Workspace space(Workspace::bytes_for(g.panels * g.taps * panel) +
                  threads * (Workspace::bytes_for(g.floats(s)) + Workspace::bytes_for(row_floats)));
  float* weights = space.floats(g.panels * g.taps * panel);
  float* images = space.floats(threads * round_up(g.floats(s), 16));
  float* buffers = space.floats(threads * round_up(row_floats, 16));
  pack_weights(p, g, weights);
  const bool straight = !p.pool && s.out_channels % panel == 0;  // whole panels are stored in place
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t n = 0; n < s.batch; ++n) {
    const FlushDenormals flush;
    const int thread = omp_get_thread_num();
    const float* image = padded_image(s, g, p.input, n, images + thread * round_up(g.floats(s), 16));
    float* buffer = buffers + thread * round_up(row_floats, 16);
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
          convolve_windows(p, g, image + 2 * y * g.row_step, w, bias, k0, p.output + at, p.argmax + at);
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

bool forward_applies(const ConvForward& p) { return applies(p.shape); }

}  // namespace
}  // namespace pixel

extern const Kernel<ConvForward> pixel_forward;
const Kernel<ConvForward> pixel_forward{"pixel", pixel::why, pixel::forward_applies, pixel::forward};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
