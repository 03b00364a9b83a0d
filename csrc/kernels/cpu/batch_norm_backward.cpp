// Batch normalisation backward, through dropout, pooling and the activation, over NHWC rows × channels.
//
// One reducing pass takes Σg and Σg·(x − mean) of every channel, where g is the gradient behind the
// activation and dropout; then  dx = p·(g − r) + q·(x − mean)  is affine a channel:
//   p = weight · invstd,   q = −p · invstd² · Σg·(x − mean) / rows,   r = Σg / rows,
// and dx = p·g in evaluation, where the statistics are constants. The second pass runs through the
// chunks in the opposite order: what the first one read last is still in the cache.
//
// Behind a pool only the maxima of the windows carry a gradient: the reducing pass walks the pooled
// map and picks its x by the argmax; the dense pass writes all four pixels of a window.
#include "norm_gradient.hpp"
#include "norm_sums.hpp"
#include "pool2x2.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

// What tells where activation and dropout stopped the gradient of a plain map: the output, where they are
// ReLU and dropout, or the input and what the activation made of it.
enum class Mask { none, output, relu, relu6, hardswish };

// The gradient behind them.
template <Mask mask>
struct MapGradient {
  const float *gradient, *output, *input;
  Vec scale;

  MapGradient(const BatchNormBackward& p, const float* gradient, double dropout)
      : gradient(gradient),
        output(p.output),
        input(p.input),
        scale(broadcast(DropoutKey{.probability = dropout}.scale())) {}

  template <class Part>
  PYCONVOPT_INLINE Vec at(int64_t i, const Affine& affine, Part part) const {
    const Vec g = load(gradient + i, part) * scale;
    if constexpr (mask == Mask::output) return load(output + i, part) <= 0.0f ? Vec{} : g;
    if constexpr (mask == Mask::none) return g;
    constexpr Activation activation = mask == Mask::relu    ? Activation::relu
                                      : mask == Mask::relu6 ? Activation::relu6
                                                            : Activation::hardswish;
    return let_through<activation>(g, affine(load(input + i, part)));
  }
};

template <Mask mask, bool keep>
void reduce_rows(const BatchNormBackward& p, const NormGradientLines& lines, NormSums& sums) {
  const int64_t channels = p.shape.channels;
  const MapGradient<mask> gradient(p, p.output_gradient, p.dropout_probability);
  const Chunks chunks = sums.chunks();
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
    sums.add(in_blocks(p.shape.rows() * channels), chunks.begin(chunk), chunks.end(chunk),
             [&](int64_t row, int64_t c, auto part, Vec* s) __attribute__((always_inline)) {
               const int64_t at = row * channels + c;
               const Vec g = gradient.at(at, lines.at(c), part);
               if constexpr (keep) store(p.residual_gradient + at, g, part);
               s[0] += g;
               s[1] += g * (load(p.input + at, part) - load(lines.mean + c));
             });
  });
}

template <Mask mask, bool training>
void apply_rows(const BatchNormBackward& p, const NormGradientLines& lines, const MapGradient<mask>& gradient) {
  const int64_t channels = p.shape.channels;
  const Chunks chunks(p.shape.rows(), channels);
  for_each_chunk(
      chunks.count,
      [&](int64_t chunk, int64_t) {
        for_each_row_vector(
            in_blocks(p.shape.rows() * channels), chunks.begin(chunk), chunks.end(chunk), channels,
            [&](int64_t c, auto) __attribute__((always_inline)) { return lines.gradient_at(c); },
            [&](const NormGradient& k, int64_t row, int64_t c, auto part) __attribute__((always_inline)) {
              const int64_t at = row * channels + c;
              const Vec g = gradient.at(at, k.affine, part);
              if constexpr (training) store(p.input_gradient + at, k(g, load(p.input + at, part)), part);
              else store(p.input_gradient + at, k.p * g, part);
            });
      },
      true);
}

template <class Part>
PYCONVOPT_INLINE Vec pooled_gradient(const BatchNormBackward& p, int64_t at, IVec position, Vec scale, Part part) {
  return live_gradient(p.output_gradient + at, position, part) * scale;
}

void reduce_windows(const BatchNormBackward& p, const NormGradientLines& lines, const Chunks& chunks,
                    ChunkSums<2>& sums) {
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
void apply_windows(const BatchNormBackward& p, const NormGradientLines& lines) {
  const Windows windows(p.shape);
  const int64_t channels = p.shape.channels;
  const Vec scale = broadcast(DropoutKey{.probability = p.dropout_probability}.scale());
  const Chunks chunks(windows.lines, 2 * windows.row, 1);
  const auto write = [&](int64_t at, int64_t c, Vec g, auto part) __attribute__((always_inline)) {
    if constexpr (training) store(p.input_gradient + at, lines.gradient_at(c)(g, load(p.input + at, part)), part);
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

template <class Use>
void with_mask(Mask mask, Use use) {
  if (mask == Mask::none) use.template operator()<Mask::none>();
  else if (mask == Mask::output) use.template operator()<Mask::output>();
  else if (mask == Mask::relu) use.template operator()<Mask::relu>();
  else if (mask == Mask::relu6) use.template operator()<Mask::relu6>();
  else use.template operator()<Mask::hardswish>();
}

InputNorm norm_of(const BatchNormBackward& p) { return {p.saved_mean, p.saved_invstd, p.weight, p.bias}; }

// Leaves what was summed up with whom it is for.
void take_sums(const BatchNormBackward& p, NormGradientLines& lines, const double* gradient, const double* product) {
  for (int64_t c = 0; c < p.shape.channels; ++c) {
    const float weight_gradient = float(product[c] * p.saved_invstd[c]), bias_gradient = float(gradient[c]);
    if (p.weight_gradient) p.weight_gradient[c] = weight_gradient;
    if (p.bias_gradient) p.bias_gradient[c] = bias_gradient;
    lines.set_sums(norm_of(p), c, weight_gradient, bias_gradient, p.shape.rows());
  }
}

void reduce(const BatchNormBackward& p, NormGradientLines& lines, Mask mask) {
  if (p.pool) {
    const Chunks chunks(Windows(p.shape).lines, 2 * p.shape.width * p.shape.channels, 1);
    ChunkSums<2> sums(chunks.count, p.shape.channels);
    reduce_windows(p, lines, chunks, sums);
    return take_sums(p, lines, sums.total(0), sums.total(1));
  }
  NormSums sums(p.shape.rows(), p.shape.channels);
  with_mask(mask, [&]<Mask known>() {
    if (p.residual_gradient) reduce_rows<known, true>(p, lines, sums);
    else reduce_rows<known, false>(p, lines, sums);
  });
  take_sums(p, lines, sums.total(0), sums.total(1));
}

void backward(const BatchNormBackward& p) {
  const int64_t channels = p.shape.channels;
  if (channels == 0) return;
  Workspace space(Workspace::bytes_for(NormGradientLines::floats(channels)));
  NormGradientLines lines(norm_of(p), channels, space.floats(NormGradientLines::floats(channels)));
  Mask mask = Mask::none;
  if (p.activation == Activation::relu && !p.pool) mask = p.output ? Mask::output : Mask::relu;
  if (p.activation == Activation::relu6) mask = Mask::relu6;
  if (p.activation == Activation::hardswish) mask = Mask::hardswish;
  if (p.known_weight_gradient)
    for (int64_t c = 0; c < channels; ++c)
      lines.set_sums(norm_of(p), c, p.known_weight_gradient[c], p.known_bias_gradient[c], p.shape.rows());
  else if (p.training || p.weight_gradient || p.bias_gradient || p.residual_gradient) reduce(p, lines, mask);
  if (!p.input_gradient) return;
  if (p.pool) return p.training ? apply_windows<true>(p, lines) : apply_windows<false>(p, lines);
  // The reducing pass has left the gradient behind the mask in the residual's.
  const float* from = p.residual_gradient ? p.residual_gradient : p.output_gradient;
  if (p.residual_gradient) mask = Mask::none;
  with_mask(mask, [&]<Mask known>() {
    const MapGradient<known> gradient(p, from, p.residual_gradient ? 0 : p.dropout_probability);
    if (p.training) apply_rows<known, true>(p, lines, gradient);
    else apply_rows<known, false>(p, lines, gradient);
  });
}

bool applies(const BatchNormBackward& p) {
  return p.activation <= Activation::relu || (!p.pool && !p.residual_gradient && p.dropout_probability == 0);
}

}  // namespace

extern const Kernel<BatchNormBackward> batch_norm_backward;
const Kernel<BatchNormBackward> batch_norm_backward{"fused", "one reducing pass, one pass that writes the gradient",
                                                    applies, backward};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
