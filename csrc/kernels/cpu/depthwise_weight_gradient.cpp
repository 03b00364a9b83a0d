// Depthwise convolution, weight gradient.  (The method: depthwise.hpp.)
//
// Each tap of a vector of channels is a sum over the pixels of the gradient times one shifted pixel of
// the input: up to `group` taps are kept in registers while a row is walked, so the gradient is read
// once for them all. Sums are taken over fixed groups of rows and added in their order, whatever
// the number of threads.
#include <omp.h>

#include "../arena.hpp"
#include "depthwise.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace depthwise {
namespace {

inline constexpr int group = 9;

// What the next row reads for the first time, in pieces as long as its gradient: with each pixel goes a vector of each.
struct Ahead {
  static constexpr int most = 5;
  const float* piece[most];
  int count = 0;
  void add(const float* row, int64_t floats, int64_t piece_floats) {
    for (int64_t at = 0; at < floats && count < most; at += piece_floats) piece[count++] = row + at;
  }
};

// sums[t][C] += Σ over pixels x of gradient[x] · source_t[x·step], for `taps` taps and one vector of channels.
template <int taps, class Part>
PYCONVOPT_INLINE void add_taps(const float* const* source, int64_t step, const float* gradient, int64_t channels,
                               int64_t pixels, int64_t c, Part part, float* const* sums, const Ahead& ahead) {
  Vec sum[taps];
#pragma GCC unroll 16
  for (int t = 0; t < taps; ++t) sum[t] = load(sums[t] + c, part);
  for (int64_t x = 0; x < pixels; ++x) {
    for (int i = 0; i < ahead.count; ++i) __builtin_prefetch(ahead.piece[i] + c * pixels + x * lanes);
    const Vec g = load(gradient + x * channels + c, part);
#pragma GCC unroll 16
    for (int t = 0; t < taps; ++t) sum[t] += load(source[t] + x * step + c, part) * g;
  }
#pragma GCC unroll 16
  for (int t = 0; t < taps; ++t) store(sums[t] + c, sum[t], part);
}

void add_pixels(const float* const* source, int64_t step, const float* gradient, int64_t channels, int64_t pixels,
                int taps, float* const* sums, const Ahead& ahead) {
  with_rows<group>(taps, [&]<int n>() __attribute__((always_inline)) {
    for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
      add_taps<n>(source, step, gradient, channels, pixels, c, part, sums, ahead);
    });
  });
}

// One row of the gradient (image n, row y) into sums[tap][C]. At the borders taps outside read `zeros`.
void add_row(const ConvWeightGradient& p, InputRows& input, int64_t n, int64_t y, const float* zeros, float* sums) {
  const ConvShape& s = p.shape;
  const int64_t channels = s.in_channels, width = s.out_width(), step = s.stride_width * channels;
  const float* gradient = p.output_gradient + (n * s.out_height() + y) * width * channels;
  Ahead ahead;
  const int64_t line = width * channels;
  ahead.add(gradient + line, line, line);
  const float* source[most_taps];
  float* to[most_taps];
  int64_t first[most_taps], end[most_taps], count = 0, inside_first = 0, inside_end = width;
  for (int64_t r = 0; r < s.kernel_height; ++r) {
    const int64_t from = y * s.stride_height - s.padding_height + r * s.dilation_height;
    if (from < 0 || from >= s.in_height) continue;
    const float* pixels = input.at(n, from);
    if (r + s.stride_height >= s.kernel_height)
      ahead.add(input.in_place(n, from + s.stride_height), s.in_width * channels, line);
    for (int64_t q = 0; q < s.kernel_width; ++q) {
      const int64_t x = q * s.dilation_width - s.padding_width;  // of the gradient's pixel 0
      first[count] = input.copied() ? 0 : least(width, greatest(0, divide_up(-x, s.stride_width)));
      end[count] =
          input.copied() ? width : greatest(first[count], least(width, divide_up(s.in_width - x, s.stride_width)));
      inside_first = greatest(inside_first, first[count]);
      inside_end = least(inside_end, end[count]);
      source[count] = pixels + x * channels;
      to[count++] = sums + (r * s.kernel_width + q) * channels;
    }
  }
  inside_end = greatest(inside_first, inside_end);
  for (int64_t t = 0; t < count; t += group) {
    const int taps = int(least(group, count - t));
    const float* at[group];
    const auto border = [&](int64_t x) {
      for (int i = 0; i < taps; ++i) at[i] = first[t + i] <= x && x < end[t + i] ? source[t + i] + x * step : zeros;
      add_pixels(at, 0, gradient + x * channels, channels, 1, taps, to + t, {});
    };
    for (int64_t x = 0; x < inside_first; ++x) border(x);
    for (int i = 0; i < taps; ++i) at[i] = source[t + i] + inside_first * step;
    add_pixels(at, step, gradient + inside_first * channels, channels, inside_end - inside_first, taps, to + t,
               t == 0 ? ahead : Ahead{});
    for (int64_t x = inside_end; x < width; ++x) border(x);
  }
}

void weight_gradient(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  const int64_t channels = s.in_channels, taps = s.kernel_height * s.kernel_width, size = taps * channels;
  // Rows in at most 64 groups; a group is summed in single precision line by line, groups in double.
  const int64_t lines = s.batch * s.out_height(), each = greatest(1, (lines + 63) / 64);
  const int64_t groups = (lines + each - 1) / each;
  const Reading reading(p.norm, channels);
  const bool copied = p.norm || (taps >= 25 && can_copy(s));
  const int64_t copy_floats = copied ? InputRows::floats(s) : 0;
  const int threads = omp_get_max_threads();
  Workspace space(Workspace::bytes_for(groups * size) + Workspace::bytes_for(channels) +
                  Workspace::bytes_for(threads * copy_floats));
  float* partial = space.floats(groups * size);
  float* zeros = space.floats(channels);
  float* copies = space.floats(threads * copy_floats);
  for (int64_t c = 0; c < channels; ++c) zeros[c] = 0;
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    InputRows input(s, p.input, reading, copied, copies + omp_get_thread_num() * copy_floats);
#pragma omp for schedule(static)
    for (int64_t g = 0; g < groups; ++g) {
      float* sums = partial + g * size;
      for (int64_t i = 0; i < size; ++i) sums[i] = 0;
      for (int64_t line = g * each; line < least(lines, (g + 1) * each); ++line)
        add_row(p, input, line / s.out_height(), line % s.out_height(), zeros, sums);
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (int64_t g = 0; g < groups; ++g) sum += partial[g * size + t * channels + c];
        p.weight_gradient[c * p.weight_strides.out_channel + t / s.kernel_width * p.weight_strides.row +
                          t % s.kernel_width * p.weight_strides.column] = float(sum);
      }
  }
}

bool weight_gradient_applies(const ConvWeightGradient& p) {
  return !p.argmax && takes_shape(p.shape) && (!p.norm || can_copy(p.shape));
}

}  // namespace
}  // namespace depthwise

extern const Kernel<ConvWeightGradient> depthwise_weight_gradient;
const Kernel<ConvWeightGradient> depthwise_weight_gradient{
    "depthwise", "depthwise: channels are the vectors, the sums of the taps stay in registers",
    depthwise::weight_gradient_applies, depthwise::weight_gradient};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
