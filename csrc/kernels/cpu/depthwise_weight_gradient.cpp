// Depthwise convolution, weight gradient.  (The method: depthwise.hpp.)
//
// Each tap of a vector of channels is a sum over the pixels of the gradient times one column of the input. The sums of
// a few runs of taps are kept in registers while a row is walked, four pixels of the gradient at a time: each of
// these, and each column, is loaded once for all of them. Sums are taken over fixed groups of rows and added in their
// order, whatever the number of threads; where groups are few, channels are shared out too.
#include <omp.h>

#include "../arena.hpp"
#include "depthwise_gradients.hpp"
#include "gemm.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace depthwise {
namespace {

struct SumRun : Run {
  float* sums;  // of the first tap, [tap][C]
};

// So many of them at once: four pixels and a column need registers too.
constexpr int most_runs(int taps) { return int(least(3, (vector_registers - 6) / taps)); }

// One row of the gradient, of some channels.
struct GradientRow {
  const float* pixels;
  int64_t width;
  int64_t channels;  // of the map: floats from one pixel, or one tap's sums, to the next
  int64_t stride;
  Columns columns;  // of the input
  Ahead ahead;
};

// Adds pixels x..x+pixels, and a vector of channels from c on.
template <int taps, int stride, int runs, int pixels, bool inside, class Part>
PYCONVOPT_INLINE void add_pixels(const GradientRow& row, const SumRun* run, int64_t x, int64_t c, Part part,
                                 Vec (*sum)[taps]) {
  Vec g[pixels];
#pragma GCC unroll 4
  for (int i = 0; i < pixels; ++i) g[i] = load(row.pixels + (x + i) * row.channels + c, part);
#pragma GCC unroll 3
  for (int r = 0; r < runs; ++r)
    for_each_column<taps, stride, pixels, inside>(run[r], row.columns, row.stride, x, c, part,
                                                  [&](int p, int t, Vec value)
                                                      __attribute__((always_inline)) { sum[r][t] += value * g[p]; });
}

// Adds the whole row.
template <int taps, int stride, int runs, class Part>
PYCONVOPT_INLINE void add_row(const GradientRow& row, const SumRun* run, bool fetch, int64_t c, Part part) {
  constexpr int together = 4;
  int64_t first = 0, end = row.width;  // pixels for which every tap meets a column that there is
#pragma GCC unroll 3
  for (int r = 0; r < runs; ++r) {
    first = greatest(first, divide_up(row.columns.first - run[r].column, row.stride));
    end = least(end, divide_up(row.columns.end - taps + 1 - run[r].column, row.stride));
  }
  Vec sum[runs][taps];
#pragma GCC unroll 3
  for (int r = 0; r < runs; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t) sum[r][t] = load(run[r].sums + t * row.channels + c, part);
  int64_t x = 0;
  for (; x + together <= row.width; x += together) {
    if (fetch)
      for (int i = 0; i < row.ahead.count; ++i)
#pragma GCC unroll 4
        for (int n = 0; n < together; ++n) __builtin_prefetch(row.ahead.piece[i] + c * row.width + (x + n) * lanes);
    if (first <= x && x + together <= end) add_pixels<taps, stride, runs, together, true>(row, run, x, c, part, sum);
    else add_pixels<taps, stride, runs, together, false>(row, run, x, c, part, sum);
  }
  if (x + 2 <= row.width) {
    add_pixels<taps, stride, runs, 2, false>(row, run, x, c, part, sum);
    x += 2;
  }
  if (x < row.width) add_pixels<taps, stride, runs, 1, false>(row, run, x, c, part, sum);
#pragma GCC unroll 3
  for (int r = 0; r < runs; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t) store(run[r].sums + t * row.channels + c, sum[r][t], part);
}

}  // namespace

void add_line(const ConvShape& s, const float* gradient, Ahead ahead, InputRows& input, Channels part, int64_t n,
              int64_t y, float* sums) {
  const int64_t channels = s.in_channels, line = s.out_width() * channels;
  GradientRow row{gradient + part.first, s.out_width(), channels, s.stride_width, input.columns(), ahead};
  const bool fetch = part.count == channels;  // parts of them do not lie together
  const int64_t together = run_taps(s.kernel_width, s.dilation_width, s.stride_width);
  SumRun runs[most_taps];
  int64_t count = 0;
  for (int64_t r = 0; r < s.kernel_height; ++r) {
    const int64_t from = y * s.stride_height - s.padding_height + r * s.dilation_height;
    if (from < 0 || from >= s.in_height) continue;
    const float* pixels = input.at(n, from);
    if (fetch && !input.copied() && r + s.stride_height >= s.kernel_height)
      row.ahead.add(input.in_place(n, from + s.stride_height), s.in_width * channels, line);
    for (int64_t q = 0; q < s.kernel_width; q += together)
      runs[count++] = {{pixels, q * s.dilation_width - s.padding_width},
                       sums + (r * s.kernel_width + q) * channels + part.first};
  }
  with_run(together, s.stride_width, [&]<int taps, int stride>() {
    constexpr int most = most_runs(taps);
    for (int64_t i = 0; i < count; i += most)
      with_rows<most>(int(least(most, count - i)), [&]<int some>() __attribute__((always_inline)) {
        for_each_vector(part.count, [&](int64_t c, auto vector) __attribute__((always_inline)) {
          add_row<taps, stride, some>(row, runs + i, i == 0, c, vector);
        });
      });
  });
}

void add_groups(const ConvShape& s, int64_t groups, const float* partial, const WeightStrides& strides, float* result) {
  const int64_t channels = s.in_channels, taps = s.kernel_height * s.kernel_width, size = taps * channels;
#pragma omp for schedule(static)
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t first = 0; first < channels; first += lanes) {
      const int64_t count = least(lanes, channels - first);
      double sum[lanes] = {};
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t i = 0; i < count; ++i) sum[i] += partial[g * size + t * channels + first + i];
      float* to = result + t / s.kernel_width * strides.row + t % s.kernel_width * strides.column;
      for (int64_t i = 0; i < count; ++i) to[(first + i) * strides.out_channel] = float(sum[i]);
    }
}

namespace {

void weight_gradient(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  const int64_t channels = s.in_channels, taps = s.kernel_height * s.kernel_width, size = taps * channels;
  const int64_t row = s.out_width() * channels;
  const Reading reading(p.norm, channels);
  const int64_t copy_floats = p.norm ? InputRows::floats(s) : 0;
  const int threads = omp_get_max_threads();
  const Split split(s, threads);
  Workspace space(Workspace::bytes_for(split.groups * size) + Workspace::bytes_for(threads * copy_floats));
  float* partial = space.floats(split.groups * size);
  float* copies = space.floats(threads * copy_floats);
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
#pragma omp for schedule(static)
    for (int64_t item = 0; item < split.groups * split.parts; ++item) {
      const int64_t g = item / split.parts, first = item % split.parts * split.part;
      const Channels part{first, least(split.part, channels - first)};
      InputRows input(s, p.input, reading, part, copies + omp_get_thread_num() * copy_floats);
      float* sums = partial + g * size;
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t c = 0; c < part.count; ++c) sums[t * channels + first + c] = 0;
      for (int64_t line = split.first(g); line < split.first(g + 1); ++line) {
        const float* gradient = p.output_gradient + line * row;
        Ahead ahead;
        ahead.add(gradient + row, row, row);
        add_line(s, gradient, ahead, input, part, line / s.out_height(), line % s.out_height(), sums);
      }
    }
    add_groups(s, split.groups, partial, p.weight_strides, p.weight_gradient);
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
