// Both gradients of a depthwise convolution in front of a batch norm, in one pass over its maps.
//
// A thread takes a range of rows of the output. The rows of its gradient, made from that behind the batch norm, are
// kept in a window that moves down: the rows of the input's gradient that they give and the weight's sums are taken
// from there. The gradient itself is never in memory: of five passes over maps of its size (two read to make it, one
// written, that one read twice) two are left. The sums are those of the kernels one by one, in their order.
#include <omp.h>

#include "../arena.hpp"
#include "../processor.hpp"
#include "depthwise_gradients.hpp"
#include "norm_gradient.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace depthwise {
namespace {

// Rows of the gradient of the convolution's output, made where they are asked for.
class MadeRows {
 public:
  MadeRows(const ConvGradients& p, const NormGradientLines& lines, float* space)
      : p_(p), lines_(lines), rows_(window(p.shape), row(p.shape), space) {}
  // Rows that a row of the input reads, and one more: those of neighbours overlap.
  static int64_t window(const ConvShape& s) { return (s.kernel_height - 1) * s.dilation_height / s.stride_height + 2; }
  static int64_t row(const ConvShape& s) { return round_up(s.out_width() * s.out_channels, 16); }
  static int64_t floats(const ConvShape& s) { return RowWindow::floats(window(s), row(s)); }

  // Row y of image n.
  const float* at(int64_t n, int64_t y) {
    const int64_t line = n * p_.shape.out_height() + y;
    return rows_.at(line, y, [&](float* to) {
      with_activation(p_.output_norm.norm.activation, [&]<Activation known>() { make<known>(line, to); });
    });
  }
  // What the rows below row number `line` of the batch will be made of.
  Ahead below(int64_t line) const {
    const int64_t floats = p_.shape.out_width() * p_.shape.out_channels;
    Ahead ahead;
    ahead.add(p_.output_gradient + (line + 2) * floats, floats, floats);
    ahead.add(p_.output_norm.map + (line + 2) * floats, floats, floats);
    return ahead;
  }

 private:
  template <Activation activation>
  void make(int64_t line, float* to) const {
    const int64_t channels = p_.shape.out_channels, width = p_.shape.out_width();
    const float* g = p_.output_gradient + line * width * channels;
    const float* z = p_.output_norm.map + line * width * channels;
    const auto some = [&]<int pixels>(int64_t x) __attribute__((always_inline)) {
      for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
        const NormGradient gradient = lines_.gradient_at(c);
#pragma GCC unroll 4
        for (int i = 0; i < pixels; ++i) {
          const int64_t at = (x + i) * channels + c;
          store(to + at, gradient.behind<activation>(load(g + at, part), load(z + at, part)), part);
        }
      });
    };
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) some.template operator()<4>(x);
    for (; x < width; ++x) some.template operator()<1>(x);
  }

  const ConvGradients& p_;
  const NormGradientLines& lines_;
  RowWindow rows_;
};

// Row y of the output's gradient brings so many rows of the input's: each belongs to one of them.
struct OwnRows {
  int64_t first, end;
  OwnRows(const ConvShape& s, int64_t y)
      : first(least(s.in_height, y * s.stride_height)),
        end(y + 1 == s.out_height() ? s.in_height : least(s.in_height, (y + 1) * s.stride_height)) {}
};

// Whether the input's rows of each group are whole pieces of the sums of its norm.
bool whole_pieces(const ConvShape& s, const Split& split) {
  const int64_t piece = NormSums::piece(s.batch * s.in_height * s.in_width);
  for (int64_t g = 1; g < split.groups; ++g) {
    const int64_t line = split.first(g), n = line / s.out_height();
    const int64_t row = n * s.in_height + OwnRows(s, line % s.out_height()).first;
    if (row * s.in_width % piece) return false;
  }
  return true;
}

void gradients(const ConvGradients& p) {
  const ConvShape& s = p.shape;
  const int threads = omp_get_max_threads();
  const Split split(s, threads);
  const int64_t channels = s.in_channels, size = s.kernel_height * s.kernel_width * channels;
  const int64_t copied = p.norm ? InputRows::floats(s) : 0, made = MadeRows::floats(s);
  const int64_t size_lines = NormGradientLines::floats(channels);
  Workspace space(Workspace::bytes_for(split.groups * size) + Workspace::bytes_for(threads * (copied + made)) +
                  Workspace::bytes_for(size_lines));
  float *partial = space.floats(split.groups * size), *windows = space.floats(threads * (copied + made));
  const OutputNorm& output = p.output_norm;
  NormGradientLines lines(output.norm, channels, space.floats(size_lines));
  for (int64_t c = 0; c < channels; ++c)
    lines.set_sums(output.norm, c, output.weight_gradient[c], output.bias_gradient[c], split.lines * s.out_width());
  const Reading reading(p.norm, channels);
  const PackedWeights weights(s, p.weight, p.weight_strides, nullptr);
  const int64_t input_rows = s.batch * s.in_height * s.in_width;
  const bool sums_wanted = p.norm_weight_gradient != nullptr, sums_here = sums_wanted && whole_pieces(s, split);
  NormSums norm_sums(sums_wanted ? input_rows : 0, channels);
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* own = windows + omp_get_thread_num() * (copied + made);
    MadeRows gradient(p, lines, own);
    InputRows input(s, p.input, reading, {0, channels}, own + made);
#pragma omp for schedule(static)
    for (int64_t g = 0; g < split.groups; ++g) {
      float* sums = partial + g * size;
      for (int64_t i = 0; i < size; ++i) sums[i] = 0;
      for (int64_t line = split.first(g); line < split.first(g + 1); ++line) {
        const int64_t n = line / s.out_height(), y = line % s.out_height();
        const OwnRows rows(s, y);
        for (int64_t row = rows.first; row < rows.end; ++row)
          data_gradient_line(s, weights, row, p.input_gradient + (n * s.in_height + row) * s.in_width * channels, false,
                             [&](int64_t from) { return gradient.at(n, from); });
        if (sums_here) {
          const int64_t first = (n * s.in_height + rows.first) * s.in_width;
          norm_sums.add_rows(p.norm->activation, reading.lines(), p.input_gradient, p.input, true, first,
                             first + (rows.end - rows.first) * s.in_width);
        }
        add_line(s, gradient.at(n, y), gradient.below(line), input, {0, channels}, n, y, sums);
      }
    }
    add_groups(s, split.groups, partial, p.weight_gradient_strides, p.weight_gradient);
  }
  if (!sums_wanted) return;
  if (!sums_here) norm_sums.add_map(p.norm->activation, reading.lines(), p.input_gradient, p.input);
  norm_sums.leave(*p.norm, p.norm_weight_gradient, p.norm_bias_gradient);
}

// Groups of rows enough for many threads, whose windows stay in a second-level cache.
bool gradients_applies(const ConvGradients& p) {
  const ConvShape& s = p.shape;
  if (!takes_shape(s) || !can_copy(s) || s.batch * s.out_height() * s.out_width() < 4096) return false;
  const int64_t floats = MadeRows::floats(s) + (p.norm ? InputRows::floats(s) : 0);
  return floats * int64_t(sizeof(float)) <= 3 * second_level_cache() / 4;
}

}  // namespace
}  // namespace depthwise

extern const Kernel<ConvGradients> depthwise_gradients;
const Kernel<ConvGradients> depthwise_gradients{
    "depthwise", "depthwise: both gradients in one pass, the batch norm's own made on the way",
    depthwise::gradients_applies, depthwise::gradients};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
