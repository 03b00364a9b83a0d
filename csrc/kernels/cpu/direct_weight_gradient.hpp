// What the sums over pixels of a weight gradient are divided into, packed from and added up to.
// (The method: direct_weight_gradient.cpp.)
#pragma once
#include "../processor.hpp"
#include "direct.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::direct {

inline constexpr int64_t block = 128;  // pixels packed at once
// Channels of an item, in whole packs and panels: what is packed is multiplied by as many as possible, and the sums
// of 256 × 256 or 128 × 512 of them, or of 128 × 256 for several taps, stay in a second-level cache.
inline constexpr int64_t most_outputs = 256, most_inputs = 512;

inline constexpr int64_t ahead = 8;  // pixels fetched before they are packed

// packed[group][pixel][width] of `count` channels in groups of `width`, zeros behind the last. made(c, x): what to make
// of a vector of them.
template <int width, class Made>
PYCONVOPT_INLINE void pack_pixel(const float* from, const float* later, int64_t count, float* packed, Made made) {
  for (int64_t c = 0; c < count; c += 16) __builtin_prefetch(later + c);
  for (int64_t c = 0; c < round_up(count, width); c += lanes)
    store(packed + c / width * block * width + c % width,
          c < count ? made(c, load_channels(from + c, count - c)) : Vec{});
}

struct Plan {
  int64_t inner, outer;                       // channels of a group
  int64_t outputs_together, inputs_together;  // of an item
  int64_t output_parts, input_parts;          // what the channels are divided into
  int64_t height, width, pixels;              // of the output
  int64_t ranges, each;                       // of pixels
  int64_t taps, groups;
  int64_t rows, columns;  // the sums of one tap and group, padded to whole packs and panels
  int64_t taps_together;  // that an item takes: the gradient is packed once for all of them

  Plan(const ConvShape& s, int threads)
      : inner(s.in_channels / s.groups),
        outer(s.out_channels / s.groups),
        outputs_together(s.kernel_height * s.kernel_width == 1 ? most_outputs : most_outputs / 2),
        inputs_together(outer <= most_outputs / 2 ? most_inputs : most_inputs / 2),
        output_parts((outer + outputs_together - 1) / outputs_together),
        input_parts((inner + inputs_together - 1) / inputs_together),
        height(s.out_height()),
        width(s.out_width()),
        pixels(s.batch * height * width),
        taps(s.kernel_height * s.kernel_width),
        groups(s.groups),
        rows(round_up(outer, pack)),
        columns(round_up(inner, panel)) {
    const int64_t wanted = least(32 / (output_parts * input_parts), pixels / (4 * block));
    const int64_t affordable = (int64_t(1) << 20) / (rows * columns * taps * groups);
    const int64_t parts = greatest(1, least(wanted, affordable));
    each = round_up((pixels + parts - 1) / parts, block);
    ranges = (pixels + each - 1) / each;
    const int64_t bytes =
        taps * least(outputs_together, rows) * least(inputs_together, columns) * int64_t(sizeof(float));
    const bool stay = bytes <= second_level_cache() / 2;
    const bool enough = ranges * groups * output_parts * input_parts >= 3 * threads;
    taps_together = stay && enough ? taps : 1;
    // Few pixels give few ranges: channels are shared out too, which changes no sum.
    while (items() < 4 * threads) {
      int64_t& larger =
          least(outputs_together, outer) > least(inputs_together, inner) ? outputs_together : inputs_together;
      if (larger <= 64) break;  // whole packs and panels, and enough of them for what is packed
      larger /= 2;
      output_parts = (outer + outputs_together - 1) / outputs_together;
      input_parts = (inner + inputs_together - 1) / inputs_together;
    }
  }
  int64_t items() const { return ranges * groups * output_parts * (taps / taps_together) * input_parts; }
  int64_t sums() const { return groups * taps * rows * columns; }  // of a range
};

// Adds the products of one packed group of output channels with one of input channels to their sums, or starts these;
// `half`: only the first vector of the panel holds any.
template <bool fetch>
PYCONVOPT_INLINE Streams add_products(const float* a, const float* b, int64_t count, float* sums, int64_t columns,
                                      bool start, bool half, Streams later = {}) {
  if (start && half) return outer_product<false, fetch, 1>(a, b, count, sums, columns, nullptr, later);
  if (start) return outer_product<false, fetch>(a, b, count, sums, columns, nullptr, later);
  if (half) return outer_product<true, fetch, 1>(a, b, count, sums, columns, nullptr, later);
  return outer_product<true, fetch>(a, b, count, sums, columns, nullptr, later);
}

// One output channel and tap of the weight: the sums of all ranges.
inline void add_ranges(const ConvWeightGradient& p, const Plan& plan, const float* sums, int64_t k, int64_t tap) {
  const ConvShape& s = p.shape;
  const WeightStrides& w = p.weight_strides;
  const float* from = sums + ((k / plan.outer * plan.taps + tap) * plan.rows + k % plan.outer) * plan.columns;
  float* to = p.weight_gradient + k * w.out_channel + tap / s.kernel_width * w.row + tap % s.kernel_width * w.column;
  for (int64_t c = 0; c < plan.inner; c += lanes) {
    Vec sum = load(from + c);
    for (int64_t range = 1; range < plan.ranges; ++range) sum += load(from + range * plan.sums() + c);
    const int64_t left = least(lanes, plan.inner - c);
    if (w.in_channel == 1) store_channels(to + c, sum, left);
    else
      for (int64_t i = 0; i < left; ++i) to[(c + i) * w.in_channel] = sum[i];
  }
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::direct
