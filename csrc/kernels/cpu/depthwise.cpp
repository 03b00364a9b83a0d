// Depthwise convolution, forward and data gradient.  (The method: depthwise.hpp.)
//
// In the data gradient of a strided convolution the pixels of a row at the same offset modulo the
// stride meet the same taps: each such phase is a row of its own.
#include <omp.h>

#include "../arena.hpp"
#include "depthwise_input.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace depthwise {
namespace {

int64_t packed_floats(const ConvShape& s) { return s.kernel_height * s.kernel_width * s.in_channels; }

// W[tap][C] of weights at any strides.
void pack(const ConvShape& s, const float* weight, const WeightStrides& strides, float* packed) {
  for (int64_t r = 0; r < s.kernel_height; ++r)
    for (int64_t q = 0; q < s.kernel_width; ++q)
      for (int64_t c = 0; c < s.in_channels; ++c)
        *packed++ = weight[r * strides.row + q * strides.column + c * strides.out_channel];
}

class PackedWeights {
 public:
  // `prepared`: packed already, or null
  PackedWeights(const ConvShape& s, const float* weight, const WeightStrides& strides, const float* prepared)
      : kernel_width_(s.kernel_width),
        channels_(s.in_channels),
        space_(Workspace::bytes_for(prepared ? 0 : packed_floats(s))),
        packed_(prepared) {
    if (prepared) return;
    float* own = space_.floats(packed_floats(s));
    pack(s, weight, strides, own);
    packed_ = own;
  }
  const float* tap(int64_t r, int64_t q) const { return packed_ + (r * kernel_width_ + q) * channels_; }

 private:
  int64_t kernel_width_, channels_;
  Workspace space_;
  const float* packed_;
};

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
    if (r + s.stride_height >= s.kernel_height) row.fetch(input.next(n, from));
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

// The taps of a row of the filter through which an output reads the input's columns of one phase. From the last one
// on: the output's columns that they meet ascend.
struct PhaseTaps {
  int64_t count = 0, last = 0, step = 1;  // of taps, from one to the next
  int64_t column = 0, apart = 1;          // of the output, for the phase's first pixel
  PhaseTaps(const ConvShape& s, int64_t phase) {
    for (int64_t q = s.kernel_width - 1; q >= 0; --q) {
      const int64_t across = phase + s.padding_width - q * s.dilation_width;
      if (across % s.stride_width) continue;
      const int64_t met = across / s.stride_width;
      if (count == 0) last = q, column = met;
      if (count == 1) step = last - q, apart = met - column;
      ++count;
    }
  }
};

void data_gradient(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  const int64_t channels = s.in_channels, height = s.out_height(), width = s.out_width();
  const PackedWeights weights(s, p.weight, p.weight_strides, nullptr);
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < s.batch * s.in_height; ++line) {
    const FlushDenormals flush;
    const int64_t n = line / s.in_height, y = line % s.in_height;
    for (int64_t phase = 0; phase < least(s.stride_width, s.in_width); ++phase) {
      const PhaseTaps met(s, phase);
      const int64_t taps = run_taps(met.count, met.apart, 1);
      Row row(taps, -met.step * channels, {0, width, channels}, 1,
              (s.in_width - phase + s.stride_width - 1) / s.stride_width,
              p.input_gradient + (line * s.in_width + phase) * channels, s.stride_width * channels);
      for (int64_t r = 0; r < s.kernel_height; ++r) {
        const int64_t down = y + s.padding_height - r * s.dilation_height;
        if (down < 0 || down % s.stride_height || down / s.stride_height >= height) continue;
        const float* pixels = p.output_gradient + (n * height + down / s.stride_height) * width * channels;
        if (r < s.stride_height) row.fetch(pixels);
        for (int64_t i = 0; i < met.count; i += taps)
          row.add(pixels, met.column + i * met.apart, weights.tap(r, met.last - i * met.step));
      }
      run_row(row, channels, nullptr, Activation::none);
    }
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
