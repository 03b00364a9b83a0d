// Depthwise convolution, forward and data gradient.  (The method: depthwise.hpp.)
#include <omp.h>

#include "../arena.hpp"
#include "depthwise_gradients.hpp"
#include "moments.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace depthwise {
namespace {

inline constexpr int block_pixels = 8;

// Adds a row of the result to the statistics, a few pixels at a time.
void take_statistics(const Row& row, int64_t channels, Piece& piece) {
  for (int64_t x = 0; x < row.pixels; x += block_pixels) {
    const int64_t count = least(block_pixels, row.pixels - x);
    for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
      Vec values[block_pixels];
      for (int64_t i = 0; i < count; ++i) values[i] = load(row.result + (x + i) * row.result_step + c, part);
      add_moments(values, count, piece, channels, c, channels - c);
    });
    piece.before += count;
  }
}

// One row of the output, line number `line` of the batch.
void forward_row(const ConvForward& p, const PackedWeights& weights, InputRows& input, int64_t line, Piece& piece) {
  const ConvShape& s = p.shape;
  const int64_t channels = s.in_channels, width = s.out_width();
  const int64_t n = line / s.out_height(), y = line % s.out_height();
  const int64_t taps = run_taps(s.kernel_width, s.dilation_width, s.stride_width);
  Row row(taps, channels, input.columns(), s.stride_width, width, p.output + line * width * channels, channels);
  for (int64_t r = 0; r < s.kernel_height; ++r) {
    const int64_t from = y * s.stride_height - s.padding_height + r * s.dilation_height;
    if (from < 0 || from >= s.in_height) continue;
    const float* pixels = input.at(n, from);
    if (!input.copied() && r + s.stride_height >= s.kernel_height) row.fetch(pixels);
    for (int64_t q = 0; q < s.kernel_width; q += taps)
      row.add(pixels, q * s.dilation_width - s.padding_width, weights.tap(r, q));
  }
  run_row(row, channels, p.bias, p.activation);
  if (piece.line) take_statistics(row, channels, piece);
}

// Rows of a piece of the statistics.
int64_t piece_rows(const ConvShape& s) { return greatest(1, (s.batch * s.out_height() + 63) / 64); }

int64_t moment_pieces(const ConvForward& p) {
  const int64_t rows = p.shape.batch * p.shape.out_height(), each = piece_rows(p.shape);
  return (rows + each - 1) / each;
}

void forward(const ConvForward& p) {
  const ConvShape& s = p.shape;
  const PackedWeights weights(s, p.weight, p.weight_strides, p.prepared);
  const int64_t lines = s.batch * s.out_height(), each = p.moments ? piece_rows(s) : 1;
  const Reading reading(p.norm, s.in_channels);
  const int64_t copied = p.norm ? InputRows::floats(s) : 0;
  const int threads = omp_get_max_threads();
  Workspace space(Workspace::bytes_for(threads * copied));
  float* copies = space.floats(threads * copied);
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    InputRows input(s, p.input, reading, {0, s.in_channels}, copies + omp_get_thread_num() * copied);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < lines; first += each) {
      Piece piece{p.moments ? p.moments + first / each * moment_line(s.out_channels) : nullptr, 0};
      for (int64_t line = first; line < least(lines, first + each); ++line) forward_row(p, weights, input, line, piece);
      if (piece.line) piece.line[2 * s.out_channels] = float(piece.before);
    }
  }
}

void data_gradient(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  const int64_t line = s.out_width() * s.out_channels;
  const PackedWeights weights(s, p.weight, p.weight_strides, nullptr);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < s.batch * s.in_height; ++row) {
    const FlushDenormals flush;
    const int64_t n = row / s.in_height, y = row % s.in_height;
    data_gradient_line(s, weights, y, p.input_gradient + row * s.in_width * s.in_channels, true,
                       [&](int64_t from) { return p.output_gradient + (n * s.out_height() + from) * line; });
  }
}

bool forward_applies(const ConvForward& p) {
  return !p.pool && !p.residual && (!p.moments || is_plain(p)) && takes_shape(p.shape) &&
         (!p.norm || can_copy(p.shape));
}
bool data_gradient_applies(const ConvDataGradient& p) { return !p.argmax && takes_shape(p.shape); }

}  // namespace
}  // namespace depthwise

constexpr const char* why = "depthwise: channels are the vectors, the weights stay in registers";
extern const Kernel<ConvForward> depthwise_forward;
const Kernel<ConvForward> depthwise_forward{
    "depthwise",
    why,
    depthwise::forward_applies,
    depthwise::forward,
    [](const ConvForward& p) { return depthwise::packed_floats(p.shape); },
    [](const ConvForward& p, float* packed) { depthwise::pack(p.shape, p.weight, p.weight_strides, packed); },
    depthwise::moment_pieces};
extern const Kernel<ConvDataGradient> depthwise_data_gradient;
const Kernel<ConvDataGradient> depthwise_data_gradient{"depthwise", why, depthwise::data_gradient_applies,
                                                       depthwise::data_gradient};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
