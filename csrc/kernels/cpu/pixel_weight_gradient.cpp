// The weight gradient of convolution for images with few channels.  (The method: pixel.hpp.)
//
// From the gradient of a 2×2-pooled map it is a sum over windows: each channel's window has one live
// pixel, so of the four inputs that a tap meets there each channel takes one. The four lie side by
// side in `quads`, one look-up by the argmax byte picks them for a vector of channels, and a quarter
// of the multiplications are left.
#include <omp.h>

#include "../arena.hpp"
#include "pixel.hpp"
#include "pool2x2.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace pixel {
namespace {

// sums[tap][panel] += Σ over the pixels of some rows of x[pixel + offset(tap)] · g[pixel][k], for `taps` taps and a
// panel or its first vector.
template <int taps, int vectors>
PYCONVOPT_INLINE void taps_times_pixels(const float* x, const Geometry& g, const int32_t* offset, const float* gradient,
                                        int64_t gradient_step, int64_t width, int64_t rows, int64_t gradient_row,
                                        float* sums) {
  Vec sum[taps][vectors];
  const float* from[taps];
#pragma GCC unroll 16
  for (int t = 0; t < taps; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[t][v] = load(sums + t * panel + v * lanes);
  for (int64_t y = 0; y < rows; ++y) {
#pragma GCC unroll 16
    for (int t = 0; t < taps; ++t) from[t] = x + y * g.row_step + offset[t];
    const float* line = gradient + y * gradient_row;
    for (int64_t pixel = 0; pixel < width; ++pixel) {
      Vec factor[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) factor[v] = load(line + pixel * gradient_step + v * lanes);
#pragma GCC unroll 16
      for (int t = 0; t < taps; ++t) {
        const Vec value = broadcast(from[t][pixel * g.pixel_step]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sum[t][v] += value * factor[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < taps; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(sums + t * panel + v * lanes, sum[t][v]);
}

// The gradient of some output rows for one panel, zeros behind the last channel, into buffer[pixel][panel].
void copy_panel(const ConvShape& s, const float* lines, int64_t k0, int64_t pixels, float* buffer) {
  for (int64_t i = 0; i < pixels; ++i)
    for (int half = 0; half < 2; ++half) {
      const int64_t k = k0 + half * lanes, left = s.out_channels - k;
      store(buffer + i * panel + half * lanes, left > 0 ? load_channels(lines + i * s.out_channels + k, left) : Vec{});
    }
}

// quads[i] = the inputs that the four pixels of a window read for a tap whose first one reads x[i].
void make_quads(const Geometry& g, const float* x, int64_t count, float* quads) {
  using Four = float __attribute__((vector_size(16)));
  using FourUnaligned = float __attribute__((vector_size(16), aligned(4), may_alias));
  using Order = int32_t __attribute__((vector_size(16)));
  const auto at = [&](int64_t i) { return Four(*reinterpret_cast<const FourUnaligned*>(x + i)); };
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const Four a = at(i), b = at(i + g.pixel_step), c = at(i + g.row_step), d = at(i + g.row_step + g.pixel_step);
    const Four ab = __builtin_shuffle(a, b, Order{0, 4, 1, 5}), ab_high = __builtin_shuffle(a, b, Order{2, 6, 3, 7});
    const Four cd = __builtin_shuffle(c, d, Order{0, 4, 1, 5}), cd_high = __builtin_shuffle(c, d, Order{2, 6, 3, 7});
    Four* to = reinterpret_cast<Four*>(quads + 4 * i);
    to[0] = __builtin_shuffle(ab, cd, Order{0, 1, 4, 5});
    to[1] = __builtin_shuffle(ab, cd, Order{2, 3, 6, 7});
    to[2] = __builtin_shuffle(ab_high, cd_high, Order{0, 1, 4, 5});
    to[3] = __builtin_shuffle(ab_high, cd_high, Order{2, 3, 6, 7});
  }
  for (; i < count; ++i)
    for (int j = 0; j < 4; ++j) quads[4 * i + j] = x[i + j / 2 * g.row_step + j % 2 * g.pixel_step];
}

// Inputs that are the first of a quad, for windows of `rows` output rows.
int64_t quad_count(const ConvShape& s, const Geometry& g, int64_t rows) {
  return (rows / 2 - 1) * 2 * g.row_step + (s.out_width() / 2 - 1) * 2 * g.pixel_step + g.offset[g.taps - 1] + 1;
}

// sums[t][panel] = Σ over windows of quad(window, tap t)[argmax] · gradient, for one vector of channels.
template <int taps, class Part>
PYCONVOPT_INLINE void taps_times_windows(const float* quads, const Geometry& g, const int32_t* offset,
                                         const float* gradient, const uint8_t* argmax, int64_t channels,
                                         int64_t windows, int64_t lines, Part part, float* sums) {
  Vec sum[taps];
#pragma GCC unroll 16
  for (int t = 0; t < taps; ++t) sum[t] = Vec{};
  for (int64_t line = 0; line < lines; ++line)
    for (int64_t x = 0; x < windows; ++x) {
      const int64_t at = (line * windows + x) * channels;
      const IVec position = load_bytes(argmax + at, part);
      const Vec live = live_gradient(gradient + at, position, part);
      const float* quad = quads + 4 * (line * 2 * g.row_step + x * 2 * g.pixel_step);
#pragma GCC unroll 16
      for (int t = 0; t < taps; ++t) sum[t] += look_up(quad + 4 * offset[t], position) * live;
    }
#pragma GCC unroll 16
  for (int t = 0; t < taps; ++t) store(sums + t * panel, sum[t]);
}

template <class Part>
PYCONVOPT_INLINE Vec sum_windows(const float* gradient, const uint8_t* argmax, int64_t channels, int64_t count,
                                 Part part) {
  Vec sum{};
  for (int64_t i = 0; i < count; ++i)
    sum += live_gradient(gradient + i * channels, load_bytes(argmax + i * channels, part), part);
  return sum;
}

// Sums of one image's output rows from y on, which read from `x` on, for all channels:
// sums[panel][tap][k], behind the taps of each panel a line for the bias.
void sum_pooled_rows(const ConvWeightGradient& p, const Geometry& g, const float* x, int64_t n, int64_t y, int64_t rows,
                     float* quads, float* sums) {
  constexpr int most = 9;
  const ConvShape& s = p.shape;
  const int64_t height = s.out_height() / 2, width = s.out_width() / 2, lines = least(rows / 2, height - y / 2);
  if (lines <= 0) return;
  make_quads(g, x, quad_count(s, g, 2 * lines), quads);
  const int64_t first = (n * height + y / 2) * width * s.out_channels;
  for_each_vector(s.out_channels, [&](int64_t k, auto part) __attribute__((always_inline)) {
    const float* gradient = p.output_gradient + first + k;
    const uint8_t* argmax = p.argmax + first + k;
    float* to = sums + k / panel * (g.taps + 1) * panel + k % panel;
    for (int64_t t = 0; t < g.taps; t += most)
      with_rows<most>(int(least(most, g.taps - t)), [&]<int taps>() {
        taps_times_windows<taps>(quads, g, g.offset + t, gradient, argmax, s.out_channels, width, lines, part,
                                 to + t * panel);
      });
    store(to + g.taps * panel, sum_windows(gradient, argmax, s.out_channels, lines * width, part));
  });
}

// The same from the gradient of the map itself, without the bias: a few rows at a time, which stay in the cache while
// all taps read them.
void sum_rows(const ConvWeightGradient& p, const Geometry& g, const float* x, int64_t n, int64_t y, int64_t rows,
              float* buffer, float* sums) {
  constexpr int most = vector_registers == 32 ? 9 : 5;
  constexpr int64_t near = 16384;  // floats of the gradient
  const ConvShape& s = p.shape;
  const int64_t width = s.out_width(), few = greatest(1, near / (width * s.out_channels));
  const bool straight = s.out_channels % lanes == 0;
  for (int64_t first = 0; first < rows; first += few) {
    const int64_t count = least(few, rows - first);
    const float* map = p.output_gradient + (n * s.out_height() + y + first) * width * s.out_channels;
    for (int64_t k = 0; k < g.panels; ++k) {
      if (!straight) copy_panel(s, map, k * panel, count * width, buffer);
      const float* gradient = straight ? map + k * panel : buffer;
      const int64_t step = straight ? s.out_channels : panel;
      for (int64_t t = 0; t < g.taps; t += most)
        with_rows<most>(int(least(most, g.taps - t)), [&]<int taps>() {
          const float* from = x + first * g.row_step;
          float* to = sums + (k * (g.taps + 1) + t) * panel;
          if (s.out_channels - k * panel > lanes)
            taps_times_pixels<taps, 2>(from, g, g.offset + t, gradient, step, width, count, width * step, to);
          else taps_times_pixels<taps, 1>(from, g, g.offset + t, gradient, step, width, count, width * step, to);
        });
    }
  }
}

void store_sums(const ConvWeightGradient& p, const Geometry& g, const double* sums) {
  const ConvShape& s = p.shape;
  for (int64_t k = 0; k < s.out_channels; ++k) {
    const double* column = sums + k / panel * (g.taps + 1) * panel + k % panel;
    float* filter = p.weight_gradient + k * p.weight_strides.out_channel;
    int64_t t = 0;
    for (int64_t r = 0; r < s.kernel_height; ++r)
      for (int64_t q = 0; q < s.kernel_width; ++q)
        for (int64_t c = 0; c < s.in_channels; ++c, ++t)
          filter[c * p.weight_strides.in_channel + r * p.weight_strides.row + q * p.weight_strides.column] =
              float(column[t * panel]);
    if (p.bias_gradient) p.bias_gradient[k] = float(column[g.taps * panel]);
  }
}

// Partial sums are taken over bands of an image's rows, fixed by the shape, and added in their order;
// bands are summed by groups, so that partial sums stay few for large batches.
void weight_gradient(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  const Geometry g(s);
  const int threads = omp_get_max_threads();
  const int64_t most_rows = least(band_rows, s.out_height()), sums_size = g.panels * (g.taps + 1) * panel;
  const int64_t band_size = round_up(g.padded(s) ? g.band_floats(s, most_rows) : 0, 16);
  const int64_t buffer_size =
      round_up(p.argmax ? 4 * quad_count(s, g, most_rows) : most_rows * s.out_width() * panel, 16);
  const int64_t bands_an_image = (s.out_height() + band_rows - 1) / band_rows, all = s.batch * bands_an_image;
  const int64_t group = (all + 63) / 64, groups = (all + group - 1) / group;
  Workspace space(Workspace::bytes_for(threads * sums_size) + Workspace::bytes_for(groups * sums_size) +
                  Workspace::bytes_for(threads * band_size) + Workspace::bytes_for(threads * buffer_size) +
                  Workspace::bytes_for(2 * sums_size));
  float* partial = space.floats(groups * sums_size);
  float* all_sums = space.floats(threads * sums_size);
  float* bands = space.floats(threads * band_size);
  float* buffers = space.floats(threads * buffer_size);
  double* result = reinterpret_cast<double*>(space.floats(2 * sums_size));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t b = 0; b < groups; ++b) {
    const FlushDenormals flush;
    const int thread = omp_get_thread_num();
    float* sums = all_sums + thread * sums_size;
    float* total = partial + b * sums_size;
    float* buffer = buffers + thread * buffer_size;
    for (int64_t i = 0; i < sums_size; ++i) total[i] = 0;
    for (int64_t band = b * group; band < least(all, (b + 1) * group); ++band) {
      const int64_t n = band / bands_an_image, y = band % bands_an_image * band_rows;
      const int64_t rows = least(band_rows, s.out_height() - y);
      for (int64_t i = 0; i < sums_size; ++i) sums[i] = 0;
      const float* x = padded_band(s, g, p.input, n, y, rows, bands + thread * band_size);
      if (p.argmax) sum_pooled_rows(p, g, x, n, y, rows, buffer, sums);
      else sum_rows(p, g, x, n, y, rows, buffer, sums);
      for (int64_t i = 0; i < sums_size; ++i) total[i] += sums[i];
    }
  }
  for (int64_t i = 0; i < sums_size; ++i) result[i] = partial[i];
  for (int64_t b = 1; b < groups; ++b)
    for (int64_t i = 0; i < sums_size; ++i) result[i] += partial[b * sums_size + i];
  store_sums(p, g, result);
}

bool weight_gradient_applies(const ConvWeightGradient& p) { return !p.norm && applies(p.shape); }

}  // namespace
}  // namespace pixel

extern const Kernel<ConvWeightGradient> pixel_weight_gradient;
const Kernel<ConvWeightGradient> pixel_weight_gradient{"pixel", pixel::why, pixel::weight_gradient_applies,
                                                       pixel::weight_gradient};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
