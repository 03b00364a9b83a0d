// The forward pass of convolution for images with few channels, with 2×2 max-pooling if asked for.
// (The method: pixel.hpp.)
#include "pixel.hpp"
#include "activated.hpp"

#include <omp.h>

#include "../arena.hpp"
#include "moments.hpp"
#include "pool2x2.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace pixel {
namespace {

// Pixels of one output row × one panel, of which `left` channels exist, at y and y_step apart.
template <int rows>
PYCONVOPT_INLINE void pixels_times_taps(const float* x, const Geometry& g, const float* w, const float* bias,
                                        Activation activation, float* y, int64_t y_step, int64_t left,
                                        const Piece& piece, int64_t k) {
  // Little is computed for a pixel: without this the stores of large maps wait for the lines they go to.
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) __builtin_prefetch(y + (rows + r) * y_step + half * lanes, 1);
  Vec sum[rows][2];
  const Vec start[2] = {load(bias), load(bias + lanes)};
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) sum[r][0] = start[0], sum[r][1] = start[1];
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
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half)
    if (left > half * lanes) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r)
        store_channels(y + r * y_step + half * lanes, activated(activation, sum[r][half]), left - half * lanes);
      if (!piece.line) continue;
      Vec values[rows];
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) values[r] = sum[r][half];
      add_moments(values, rows, piece, y_step, k + half * lanes, left - half * lanes);
    }
}

int64_t packed_floats(const ConvForward& p) {
  const Geometry g(p.shape);
  return g.panels * g.taps * panel;
}

void pack_weights(const ConvForward& p, float* packed) {
  const ConvShape& s = p.shape;
  const Geometry g(s);
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
PYCONVOPT_INLINE void windows_times_taps(const float* x, const Geometry& g, const float* w, const float* bias,
                                         Activation activation, float* output, uint8_t* argmax, int64_t y_step,
                                         int64_t left) {
  Vec sum[2][columns][2];
  const Vec start[2] = {load(bias), load(bias + lanes)};
#pragma GCC unroll 16
  for (int i = 0; i < columns; ++i)
#pragma GCC unroll 2
    for (int row = 0; row < 2; ++row) sum[row][i][0] = start[0], sum[row][i][1] = start[1];
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
      if (left > half * lanes) {
        const Vec pixels[4] = {sum[0][i][half], sum[0][i + 1][half], sum[1][i][half], sum[1][i + 1][half]};
        const int64_t at = i / 2 * y_step + half * lanes;
        store_window(pixels, activation, output + at, argmax + at, left - half * lanes);
      }
}

// One row of the result, which reads from `x` on: all panels of a few pixels, so that memory is
// written in its order, then the next. `piece` without a line: no statistics are wanted.
void convolve_row(const ConvForward& p, const Geometry& g, const float* x, const float* weights, const float* bias,
                  float* output, uint8_t* argmax, Piece piece) {
  constexpr int most_pixels = product_rows, most_windows = product_rows / 4;
  const int64_t channels = p.shape.out_channels, width = p.pool ? p.shape.out_width() / 2 : p.shape.out_width();
  const int64_t most = p.pool ? most_windows : most_pixels;
  for (int64_t i = 0; i < width; i += most) {
    const int n = int(least(most, width - i));
    for (int64_t k = 0; k < g.panels; ++k) {
      const float *w = weights + k * g.taps * panel, *b = bias + k * panel;
      const int64_t at = i * channels + k * panel, left = channels - k * panel;
      if (p.pool)
        with_rows<most_windows>(n, [&]<int windows>() {
          windows_times_taps<2 * windows>(x + 2 * i * g.pixel_step, g, w, b, p.activation, output + at, argmax + at,
                                          channels, left);
        });
      else
        with_rows<most_pixels>(n, [&]<int pixels>() {
          pixels_times_taps<pixels>(x + i * g.pixel_step, g, w, b, p.activation, output + at, channels, left, piece,
                                    k * panel);
        });
    }
    piece.before += n;
  }
}

// A piece of the statistics is a band of an image.
int64_t moment_pieces(const ConvForward& p) {
  return p.shape.batch * ((p.shape.out_height() + band_rows - 1) / band_rows);
}

void forward(const ConvForward& p) {
  const ConvShape& s = p.shape;
  const Geometry g(s);
  const int threads = omp_get_max_threads();
  const int64_t step = p.pool ? 2 : 1, rows = s.out_height() / step, width = s.out_width() / step;  // of the result
  const int64_t each = band_rows / step, bands = (rows + each - 1) / each;
  const int64_t band_size = round_up(g.padded(s) ? g.band_floats(s, least(band_rows, s.out_height())) : 0, 16);
  const int64_t own_size = p.prepared ? 0 : g.panels * g.taps * panel;
  Workspace space(Workspace::bytes_for(own_size) + Workspace::bytes_for(g.panels * panel) +
                  Workspace::bytes_for(threads * band_size));
  float* own = space.floats(own_size);
  float* bias = space.floats(g.panels * panel);
  float* spaces = space.floats(threads * band_size);
  if (!p.prepared) pack_weights(p, own);
  const float* weights = p.prepared ? p.prepared : own;
  for (int64_t k = 0; k < g.panels * panel; ++k) bias[k] = p.bias && k < s.out_channels ? p.bias[k] : 0.0f;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t unit = 0; unit < s.batch * bands; ++unit) {
    const FlushDenormals flush;
    const int64_t n = unit / bands, first = unit % bands * each, count = least(each, rows - first);
    const float* x =
        padded_band(s, g, p.input, n, first * step, count * step, spaces + omp_get_thread_num() * band_size);
    Piece piece{p.moments ? p.moments + unit * moment_line(s.out_channels) : nullptr, 0};
    for (int64_t y = 0; y < count; ++y, piece.before += width) {
      const int64_t at = (n * rows + first + y) * width * s.out_channels;
      convolve_row(p, g, x + y * step * g.row_step, weights, bias, p.output + at, p.argmax + at, piece);
    }
    if (piece.line) piece.line[2 * s.out_channels] = float(piece.before);
  }
}

bool forward_applies(const ConvForward& p) {
  if (p.norm || (p.moments && !is_plain(p))) return false;
  return !p.residual && !(p.pool && p.activation > Activation::relu) && applies(p.shape);
}

}  // namespace
}  // namespace pixel

extern const Kernel<ConvForward> pixel_forward;
const Kernel<ConvForward> pixel_forward{"pixel",
                                        pixel::why,
                                        pixel::forward_applies,
                                        pixel::forward,
                                        pixel::packed_floats,
                                        pixel::pack_weights,
                                        pixel::moment_pieces};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
