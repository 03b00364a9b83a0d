// Batch normalisation forward, with what follows it, over NHWC rows × channels.
//
// Two passes over the input: the statistics, then output = (x − mean) · a + bias with
// a = weight · invstd, together with the residual, ReLU, 2×2 max-pooling and dropout. (Folding the
// mean into the bias would save one instruction of a pass that waits for memory, and cancel digits
// where the mean is large against the deviation.)
//
// Statistics (Chan, Golub and LeVeque 1983): pieces of up to 256 rows sum x − s and (x − s)² in single
// precision, where s is the mean of the piece's first rows, so that little cancels when the mean is
// large against the deviation; pieces and then chunks are merged as (count, mean, Σ(x − mean)²) in double.
#include "affine.hpp"
#include "philox.hpp"
#include "pool2x2.hpp"
#include "rows.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

// Merges `added` rows with the given moments into `rows` rows' mean and Σ(x − mean)².
PYCONVOPT_INLINE void merge_moments(double rows, double added, double added_mean, double added_squares, double& mean,
                                    double& squares) {
  const double difference = added_mean - mean, all = rows + added;
  mean += difference * (added / all);
  squares += added_squares + difference * difference * (rows * added / all);
}

// Line 0 of the result: the mean of every channel; line 1: Σ(x − mean)².
void moments(const BatchNormForward& p, ChunkSums<2>& sums, const Chunks& chunks, float* shifts) {
  const int64_t channels = p.shape.channels, stride = sums.stride();
  const bool blocks = in_blocks(p.shape.rows() * channels);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t thread) {
    float *single = sums.single(thread), *shift = shifts + thread * stride;
    double *mean = sums.line(chunk, 0), *squares = sums.line(chunk, 1);
    sums.clear_single(thread);
    sums.clear(chunk);
    const int64_t begin = chunks.begin(chunk), end = chunks.end(chunk);
    for (int64_t row = begin; row < end; row += flush_rows) {
      const int64_t last = least(end, row + flush_rows);
      const int64_t few = least(8, last - row);
      for_each_vector(channels, [&](int64_t c, auto part) {
        Vec first{};
        for (int64_t r = row; r < row + few; ++r) first += load(p.input + r * channels + c, part);
        first *= 1.0f / float(few);
        store(shift + c, first - first == 0.0f ? first : Vec{});  // infinity and NaN would spread further
      });
      sum_rows<2>(blocks, row, last, channels, single, stride,
                  [&](int64_t r, int64_t c, auto part, Vec* s) __attribute__((always_inline)) {
                    const Vec x = load(p.input + r * channels + c, part) - load(shift + c);
                    s[0] += x;
                    s[1] += x * x;
                  });
      const double before = double(row - begin), added = double(last - row);
      for (int64_t c = 0; c < channels; ++c) {
        const double sum = single[c], square = single[stride + c];
        merge_moments(before, added, shift[c] + sum / added, square - sum * sum / added, mean[c], squares[c]);
        single[c] = single[stride + c] = 0;
      }
    }
  });
  double *mean = sums.line(0, 0), *squares = sums.line(0, 1);
  for (int64_t chunk = 1; chunk < chunks.count; ++chunk)
    for (int64_t c = 0; c < channels; ++c)
      merge_moments(double(chunks.begin(chunk)), double(chunks.end(chunk) - chunks.begin(chunk)),
                    sums.line(chunk, 0)[c], sums.line(chunk, 1)[c], mean[c], squares[c]);
}

// The same from pieces that the convolution before has left.
void given_moments(const BatchNormForward& p, double* mean, double* squares) {
  constexpr int64_t few = 16;  // channels that a thread merges at once
  const int64_t channels = p.shape.channels;
#pragma omp parallel for schedule(static) if (p.moment_pieces * channels > 32768)
  for (int64_t first = 0; first < channels; first += few) {
    const int64_t last = least(channels, first + few);
    double rows = 0;
    for (int64_t c = first; c < last; ++c) mean[c] = squares[c] = 0;
    for (int64_t piece = 0; piece < p.moment_pieces; ++piece) {
      const float *means = p.moments + piece * moment_line(channels), *piece_squares = means + channels;
      const double added = means[2 * channels];
      for (int64_t c = first; c < last; ++c)
        merge_moments(rows, added, means[c], piece_squares[c], mean[c], squares[c]);
      rows += added;
    }
  }
}

void batch_statistics(const BatchNormForward& p) {
  const int64_t rows = p.shape.rows(), channels = p.shape.channels;
  const Chunks chunks(rows, channels);
  ChunkSums<2> sums(p.moments ? 1 : chunks.count, channels);
  double *mean = sums.line(0, 0), *squares = sums.line(0, 1);
  if (p.moments) {
    given_moments(p, mean, squares);
  } else {
    Workspace space(Workspace::bytes_for(omp_get_max_threads() * sums.stride()));
    moments(p, sums, chunks, space.floats(omp_get_max_threads() * sums.stride()));
  }
  for (int64_t c = 0; c < channels; ++c) {
    const double sum = squares[c] < 0 ? 0 : squares[c];
    p.saved_mean[c] = float(mean[c]);
    p.saved_invstd[c] = float(1 / __builtin_sqrt(sum / double(rows) + p.epsilon));
    if (p.running_mean) p.running_mean[c] = moved_average(p.running_mean[c], mean[c], p.momentum);
    if (p.running_variance)
      p.running_variance[c] = moved_average(p.running_variance[c], sum / double(rows - 1), p.momentum);
  }
}

void running_statistics(const BatchNormForward& p) {
  for (int64_t c = 0; c < p.shape.channels; ++c) {
    p.saved_mean[c] = p.running_mean ? p.running_mean[c] : 0.0f;
    const double variance = p.running_variance ? p.running_variance[c] : 1.0f;
    p.saved_invstd[c] = float(1 / __builtin_sqrt(variance + p.epsilon));
  }
}

// Multipliers of dropout for a few thousand elements at a time, one buffer a thread.
class Multipliers {
 public:
  Multipliers(const DropoutKey& key, int64_t most)
      : stream_(key),
        size_(round_up(most + 2 * dropout_group, 16)),
        space_(Workspace::bytes_for(omp_get_max_threads() * size_)),
        buffers_(space_.floats(omp_get_max_threads() * size_)) {}
  const float* fill(int64_t begin, int64_t count, int64_t thread) const {
    return stream_.fill(begin, count, buffers_ + thread * size_);
  }

 private:
  DropoutStream stream_;
  int64_t size_;
  Workspace space_;
  float* buffers_;
};

template <Activation activation, bool residual, bool drop>
void apply_rows(const BatchNormForward& p, const AffineLines& lines) {
  const int64_t channels = p.shape.channels;
  const Chunks chunks(p.shape.rows(), channels);
  const int64_t strip = drop ? round_up(4096 / channels + 1, row_block) : chunks.each;
  const Multipliers multipliers(p.dropout, drop ? strip * channels : 0);
  for_each_chunk(
      chunks.count,
      [&](int64_t chunk, int64_t thread) {
        const int64_t last = chunks.end(chunk);
        for (int64_t begin = chunks.begin(chunk); begin < last; begin += strip) {
          const int64_t end = least(last, begin + strip);
          const float* multiplier =
              drop ? multipliers.fill(begin * channels, (end - begin) * channels, thread) : nullptr;
          for_each_row_vector(
              in_blocks(p.shape.rows() * channels), begin, end, channels,
              [&](int64_t c, auto) __attribute__((always_inline)) { return lines.at(c); },
              [&](const Affine& k, int64_t row, int64_t c, auto part) __attribute__((always_inline)) {
                const int64_t at = row * channels + c;
                Vec y = k(load(p.input + at, part));
                if constexpr (residual) y += load(p.residual + at, part);
                y = activated<activation>(y);
                if constexpr (drop) y *= load(multiplier + (row - begin) * channels + c, part);
                store(p.output + at, y, part);
              });
        }
      },
      true);
}

template <bool clamp, bool drop>
void apply_windows(const BatchNormForward& p, const AffineLines& lines) {
  const Windows windows(p.shape);
  const int64_t channels = p.shape.channels, line_floats = windows.width * channels;
  const Chunks chunks(windows.lines, 2 * windows.row, 1);
  const Multipliers multipliers(p.dropout, drop ? line_floats : 0);
  for_each_chunk(
      chunks.count,
      [&](int64_t chunk, int64_t thread) {
        for (int64_t line = chunks.begin(chunk); line < chunks.end(chunk); ++line) {
          const float* map = p.input + windows.map_at(line);
          const int64_t pooled = windows.pooled_at(line);
          const float* multiplier = drop ? multipliers.fill(pooled, line_floats, thread) : nullptr;
          for (int64_t x = 0; x < windows.width; ++x)
            for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
              const Affine k = lines.at(c);
              const float* window = map + 2 * x * channels + c;
              Vec pixels[4];
#pragma GCC unroll 4
              for (int i = 0; i < 4; ++i) pixels[i] = k(load(window + windows.step(i), part));
              IVec position;
              Vec best = largest(pixels, position);
              if constexpr (clamp) {
                position = best <= 0.0f ? IVec{} + int(pool_dead) : position;
                best = relu(best);
              }
              if constexpr (drop) {
                const Vec factor = load(multiplier + x * channels + c, part);
                position = factor == 0.0f ? IVec{} + int(pool_dead) : position;
                best *= factor;
              }
              const int64_t at = pooled + x * channels + c;
              store(p.output + at, best, part);
              store_bytes(p.argmax + at, position, part);
            });
        }
      },
      true);
}

// Calls use.template operator()<flags...>() for run-time flags.
template <bool... known, class Use>
void with_flags(Use use) {
  use.template operator()<known...>();
}
template <bool... known, class Use, class... More>
void with_flags(Use use, bool flag, More... more) {
  if (flag) with_flags<known..., true>(use, more...);
  else with_flags<known..., false>(use, more...);
}

void forward(const BatchNormForward& p) {
  if (p.shape.channels == 0) return;
  if (!p.again) {
    if (p.training && p.shape.rows() > 0) batch_statistics(p);
    else running_statistics(p);
  }
  if (!p.output) return;
  const int64_t channels = p.shape.channels;
  Workspace space(Workspace::bytes_for(AffineLines::floats(channels)));
  const AffineLines lines({p.saved_mean, p.saved_invstd, p.weight, p.bias}, channels,
                          space.floats(AffineLines::floats(channels)));
  const bool clamp = p.activation == Activation::relu, drop = p.dropout.probability > 0;
  if (p.pool) return with_flags([&]<bool c, bool d>() { apply_windows<c, d>(p, lines); }, clamp, drop);
  if (p.activation == Activation::relu6) return apply_rows<Activation::relu6, false, false>(p, lines);
  if (p.activation == Activation::hardswish) return apply_rows<Activation::hardswish, false, false>(p, lines);
  with_flags([&]<bool c, bool r, bool d>() { apply_rows<c ? Activation::relu : Activation::none, r, d>(p, lines); },
             clamp, p.residual != nullptr, drop);
}

bool applies(const BatchNormForward& p) {
  const bool drop = p.dropout.probability > 0;
  if (p.activation > Activation::relu) return !drop && !p.pool && !p.residual;
  return !drop || p.pool || p.activation == Activation::relu;
}

}  // namespace

extern const Kernel<BatchNormForward> batch_norm_forward;
const Kernel<BatchNormForward> batch_norm_forward{
    "fused", "statistics in one pass; affine, ReLU, pooling and dropout in the other", applies, forward};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
