// Batch normalisation backward, through dropout, pooling and ReLU, over NHWC rows × channels.
//
// One reducing pass takes Σg and Σg·(x − mean) of every channel, where g is the gradient behind ReLU
// and dropout; then  dx = p·(g − r) + q·(x − mean)  is affine a channel:
//   p = weight · invstd,   q = −p · invstd² · Σg·(x − mean) / rows,   r = Σg / rows,
// and dx = p·g in evaluation, where the statistics are constants. The second pass runs through the
// chunks in the opposite order: what the first one read last is still in the cache.
//
// Behind a pool only the maxima of the windows carry a gradient: the reducing pass walks the pooled
// map and picks its x by the argmax; the dense pass writes all four pixels of a window.
#include "../norm.hpp"
#include "pool2x2.hpp"
#include "rows.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

// The gradient behind ReLU and dropout, for a plain map.
template <bool masked>
struct MapGradient {
  const float *gradient, *output;
  Vec scale;
  template <class Part>
  PYCONVOPT_INLINE Vec at(int64_t i, Part part) const {
    const Vec g = load(gradient + i, part) * scale;
    if constexpr (masked) return load(output + i, part) <= 0.0f ? Vec{} : g;
    return g;
  }
};

struct Lines {  // of channels, padded to whole vectors
  float *mean, *p, *q, *r;
};

template <bool masked, bool keep>
void reduce_rows(const BatchNormBackward& p, const Lines& lines, const Chunks& chunks, ChunkSums<2>& sums) {
  const int64_t channels = p.shape.channels;
  const MapGradient<masked> gradient{p.output_gradient, p.output,
                                     broadcast(DropoutKey{.probability = p.dropout_probability}.scale())};
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t thread) {
    sum_chunk(in_blocks(p.shape.rows() * channels), sums, chunk, thread, chunks.begin(chunk), chunks.end(chunk),
              channels, [&](int64_t row, int64_t c, auto part, Vec* s) __attribute__((always_inline)) {
                const int64_t at = row * channels + c;
                const Vec g = gradient.at(at, part);
                if constexpr (keep) store(p.residual_gradient + at, g, part);
                s[0] += g;
                s[1] += g * (load(p.input + at, part) - load(lines.mean + c));
              });
  });
}

struct Coefficients {
  Vec mean, p, q, r;
};

template <bool masked, bool training>
void apply_rows(const BatchNormBackward& p, const Lines& lines, const MapGradient<masked>& gradient) {
  const int64_t channels = p.shape.channels;
  const Chunks chunks(p.shape.rows(), channels);
  for_each_chunk(
      chunks.count,
      [&](int64_t chunk, int64_t) {
        for_each_row_vector(
            in_blocks(p.shape.rows() * channels), chunks.begin(chunk), chunks.end(chunk), channels,
            [&](int64_t c, auto) __attribute__((always_inline)) {
              return Coefficients{load(lines.mean + c), load(lines.p + c), load(lines.q + c), load(lines.r + c)};
            },
            [&](const Coefficients& k, int64_t row, int64_t c, auto part) __attribute__((always_inline)) {
              const int64_t at = row * channels + c;
              const Vec g = gradient.at(at, part);
              if constexpr (training)
                store(p.input_gradient + at, k.p * (g - k.r) + k.q * (load(p.input + at, part) - k.mean), part);
              else store(p.input_gradient + at, k.p * g, part);
            });
      },
      true);
}

template <class Part>
PYCONVOPT_INLINE Vec pooled_gradient(const BatchNormBackward& p, int64_t at, IVec position, Vec scale, Part part) {
  return position < int(pool_dead) ? load(p.output_gradient + at, part) * scale : Vec{};
}

void reduce_windows(const BatchNormBackward& p, const Lines& lines, const Chunks& chunks, ChunkSums<2>& sums) {
  const Windows windows(p.shape);
  const int64_t channels = p.shape.channels;
  const Vec scale = broadcast(DropoutKey{.probability = p.dropout_probability}.scale());
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t thread) {
    sums.clear_single(thread);
    sums.clear(chunk);
    int64_t summed = 0;
    for (int64_t line = chunks.begin(chunk); line < chunks.end(chunk); ++line) {
      const float* map = p.input + windows.map_at(line);
      const int64_t pooled = windows.pooled_at(line);
      sum_rows<2>(false, 0, windows.width, channels, sums.single(thread), sums.stride(),
                  [&](int64_t x, int64_t c, auto part, Vec* s) __attribute__((always_inline)) {
                    const int64_t at = pooled + x * channels + c;
                    const IVec position = load_bytes(p.argmax + at, part);
                    const Vec g = pooled_gradient(p, at, position, scale, part);
                    const float* window = map + 2 * x * channels + c;
                    Vec chosen = load(window, part);
#pragma GCC unroll 3
                    for (int i = 1; i < 4; ++i) {
                      const Vec pixel = load(window + windows.step(i), part);
                      chosen = position == i ? pixel : chosen;
                    }
                    s[0] += g;
                    s[1] += g * (chosen - load(lines.mean + c));
                  });
      summed += windows.width;
      if (summed >= flush_rows || line + 1 == chunks.end(chunk)) {
        sums.flush(chunk, thread);
        summed = 0;
      }
    }
  });
}

template <bool training>
void apply_windows(const BatchNormBackward& p, const Lines& lines) {
  const Windows windows(p.shape);
  const int64_t channels = p.shape.channels;
  const Vec scale = broadcast(DropoutKey{.probability = p.dropout_probability}.scale());
  const Chunks chunks(windows.lines, 2 * windows.row, 1);
  const auto write = [&](int64_t at, int64_t c, Vec g, auto part) __attribute__((always_inline)) {
    if constexpr (training)
      store(p.input_gradient + at,
            load(lines.p + c) * (g - load(lines.r + c)) +
                load(lines.q + c) * (load(p.input + at, part) - load(lines.mean + c)),
            part);
    else store(p.input_gradient + at, load(lines.p + c) * g, part);
  };
  const auto write_rest = [&](int64_t begin, int64_t count) {
    for (int64_t pixel = begin; pixel < begin + count; pixel += channels)
      for_each_vector(channels, [&](int64_t c, auto part) { write(pixel + c, c, Vec{}, part); });
  };
  for_each_chunk(
      chunks.count,
      [&](int64_t chunk, int64_t) {
        for (int64_t line = chunks.begin(chunk); line < chunks.end(chunk); ++line) {
          const int64_t map = windows.map_at(line), pooled = windows.pooled_at(line);
          for (int64_t x = 0; x < windows.width; ++x)
            for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
              const int64_t at = pooled + x * channels + c, window = map + 2 * x * channels + c;
              const IVec position = load_bytes(p.argmax + at, part);
              const Vec g = pooled_gradient(p, at, position, scale, part);
#pragma GCC unroll 4
              for (int i = 0; i < 4; ++i) write(window + windows.step(i), c, position == i ? g : Vec{}, part);
            });
          windows.for_rest(line, write_rest);
        }
      },
      true);
  if (windows.height == 0) write_rest(0, p.shape.rows() * channels);
}

void reduce(const BatchNormBackward& p, Lines& lines, bool masked) {
  const int64_t channels = p.shape.channels, rows = p.shape.rows();
  const Chunks chunks =
      p.pool ? Chunks(Windows(p.shape).lines, 2 * p.shape.width * channels, 1) : Chunks(rows, channels);
  ChunkSums<2> sums(chunks.count, channels);
  if (p.pool) reduce_windows(p, lines, chunks, sums);
  else if (p.residual_gradient && masked) reduce_rows<true, true>(p, lines, chunks, sums);
  else if (p.residual_gradient) reduce_rows<false, true>(p, lines, chunks, sums);
  else if (masked) reduce_rows<true, false>(p, lines, chunks, sums);
  else reduce_rows<false, false>(p, lines, chunks, sums);
  const double *gradient = sums.total(0), *product = sums.total(1);
  for (int64_t c = 0; c < channels; ++c) {
    const double invstd = p.saved_invstd[c];
    if (p.weight_gradient) p.weight_gradient[c] = float(product[c] * invstd);
    if (p.bias_gradient) p.bias_gradient[c] = float(gradient[c]);
    const double scale = (p.weight ? double(p.weight[c]) : 1.0) * invstd;
    lines.q[c] = float(-scale * invstd * invstd * product[c] / double(rows));
    lines.r[c] = float(gradient[c] / double(rows));
  }
}

void backward(const BatchNormBackward& p) {
  const int64_t channels = p.shape.channels, padded = round_up(channels, 16);
  if (channels == 0) return;
  Workspace space(Workspace::bytes_for(4 * padded));
  float* first = space.floats(4 * padded);
  Lines lines{first, first + padded, first + 2 * padded, first + 3 * padded};
  for (int64_t i = 0; i < 4 * padded; ++i) first[i] = 0;
  for (int64_t c = 0; c < channels; ++c) {
    lines.mean[c] = p.saved_mean[c];
    lines.p[c] = float((p.weight ? double(p.weight[c]) : 1.0) * p.saved_invstd[c]);
  }
  const bool masked = p.activation == Activation::relu && !p.pool;
  if (p.training || p.weight_gradient || p.bias_gradient || p.residual_gradient) reduce(p, lines, masked);
  if (!p.input_gradient) return;
  if (p.pool) return p.training ? apply_windows<true>(p, lines) : apply_windows<false>(p, lines);
  if (masked && !p.residual_gradient) {
    const MapGradient<true> gradient{p.output_gradient, p.output,
                                     broadcast(DropoutKey{.probability = p.dropout_probability}.scale())};
    return p.training ? apply_rows<true, true>(p, lines, gradient) : apply_rows<true, false>(p, lines, gradient);
  }
  // The reducing pass has left the masked gradient in the residual's.
  const float* plain = p.residual_gradient ? p.residual_gradient : p.output_gradient;
  const MapGradient<false> gradient{plain, nullptr, broadcast(1.0f)};
  return p.training ? apply_rows<false, true>(p, lines, gradient) : apply_rows<false, false>(p, lines, gradient);
}

bool applies(const BatchNormBackward&) { return true; }

}  // namespace

extern const Kernel<BatchNormBackward> batch_norm_backward;
const Kernel<BatchNormBackward> batch_norm_backward{"fused", "one reducing pass, one pass that writes the gradient",
                                                    applies, backward};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
