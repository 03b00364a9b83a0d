// Direct convolution, weight gradient.  (The method: direct.hpp.)
//
//   dW[k][tap][c] = Σ_pixel g[pixel][k] · x[source(pixel, tap)][c]
//
// A thread takes a range of pixels, some output and some input channels, and a tap or all of them: few enough for their
// sums to stay in its cache. It packs the gradient and the input of a few pixels and adds their outer products.
// Which ranges there are depends on the shape alone, and their sums are added in order: the thread count
// does not show in the result. Items that read the same pixels follow each other.
#include <omp.h>

#include "../arena.hpp"
#include "../processor.hpp"
#include "direct.hpp"
#include "reading.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace direct {
namespace {

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
  }
  int64_t items() const { return ranges * groups * output_parts * (taps / taps_together) * input_parts; }
  int64_t sums() const { return groups * taps * rows * columns; }  // of a range
};

// Where the input's channels lie, from `c` of a group on, that `count` of the output's pixels met at a tap; the last
// pixel's stand `ahead` times more behind.
void find_inputs(const ConvWeightGradient& p, const Plan& plan, int64_t first, int64_t count, int64_t tap,
                 int64_t group, int64_t c, const float* zeros, const float** at) {
  const ConvShape& s = p.shape;
  const float* input = p.input + group * plan.inner + c;
  const int64_t down = tap / s.kernel_width * s.dilation_height - s.padding_height,
                right = tap % s.kernel_width * s.dilation_width - s.padding_width;
  Place pixel = Place::number(first, plan.height, plan.width);
  for (int64_t i = 0; i < count; ++i, pixel.advance(plan.height, plan.width)) {
    const int64_t y = pixel.row * s.stride_height + down, x = pixel.column * s.stride_width + right;
    const bool inside = y >= 0 && y < s.in_height && x >= 0 && x < s.in_width;
    at[i] = inside ? input + ((pixel.image * s.in_height + y) * s.in_width + x) * s.in_channels : zeros;
  }
  for (int64_t i = count; i < count + ahead; ++i) at[i] = at[count - 1];
}

void run_item(const ConvWeightGradient& p, const Reading& reading, const Plan& plan, int64_t item, float* packed_g,
              float* packed_x, float* sums, const float* zeros) {
  const ConvShape& s = p.shape;
  const auto next = [&](int64_t count) {
    const int64_t index = item % count;
    item /= count;
    return index;
  };
  const int64_t c0 = next(plan.input_parts) * plan.inputs_together;
  const int64_t first_tap = next(plan.taps / plan.taps_together) * plan.taps_together;
  const int64_t k0 = next(plan.output_parts) * plan.outputs_together, group = next(plan.groups), range = item;
  const int64_t ks = least(plan.outputs_together, plan.outer - k0), cs = least(plan.inputs_together, plan.inner - c0);
  const int64_t begin = range * plan.each, end = least(plan.pixels, begin + plan.each);
  const float* g = p.output_gradient + group * plan.outer + k0;
  const auto gradient_at = [&](int64_t pixel) { return g + pixel * s.out_channels; };
  const float* inputs[block + ahead];
  for (int64_t first = begin; first < end; first += block) {
    const int64_t count = least(block, end - first);
    for (int64_t i = 0; i < count; ++i)
      pack_pixel<pack>(gradient_at(first + i), gradient_at(least(first + i + ahead, end - 1)), ks, packed_g + i * pack,
                       [](int64_t, Vec x) __attribute__((always_inline)) { return x; });
    for (int64_t tap = first_tap; tap < first_tap + plan.taps_together; ++tap) {
      find_inputs(p, plan, first, count, tap, group, c0, zeros, inputs);
      reading.with([&]<class Way>(const Way& way) {
        for (int64_t i = 0; i < count; ++i)
          pack_pixel<panel>(inputs[i], inputs[i + ahead], cs, packed_x + i * panel,
                            [&](int64_t c, Vec x) __attribute__((always_inline)) {
                              const bool outside = Way::changes && inputs[i] == zeros;
                              return outside ? x : way.at(group * plan.inner + c0 + c)(x);
                            });
      });
      // Maps without a tap's offsets are gone through in their order: the next pixels are fetched during the products.
      Streams later;
      if (pointwise(s) && end - first > count) {
        const int64_t walks =
            (vector_registers == 32 ? 2 : 3) * count * ((ks + pack - 1) / pack) * ((cs + panel - 1) / panel);
        const int64_t bytes = count * int64_t(sizeof(float));
        later = {reinterpret_cast<const char*>(gradient_at(first + count)),
                 reinterpret_cast<const char*>(inputs[0] + count * s.in_channels),
                 (bytes * s.out_channels + walks - 1) / walks, (bytes * s.in_channels + walks - 1) / walks};
      }
      float* own = sums + range * plan.sums() + (group * plan.taps + tap) * plan.rows * plan.columns;
      for (int64_t c = 0; c < cs; c += panel)
        for (int64_t k = 0; k < ks; k += pack) {
          float* to = own + (k0 + k) * plan.columns + c0 + c;
          const float *a = packed_g + k * block, *b = packed_x + c * block;
          const bool half = cs - c <= lanes;
          if (first == begin && half)
            later = outer_product<false, true, 1>(a, b, count, to, plan.columns, nullptr, later);
          else if (first == begin) later = outer_product<false, true>(a, b, count, to, plan.columns, nullptr, later);
          else if (half) later = outer_product<true, true, 1>(a, b, count, to, plan.columns, nullptr, later);
          else later = outer_product<true, true>(a, b, count, to, plan.columns, nullptr, later);
        }
    }
  }
}

// One output channel and tap of the weight: the sums of all ranges.
void add_ranges(const ConvWeightGradient& p, const Plan& plan, const float* sums, int64_t k, int64_t tap) {
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

void weight_gradient(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  const int threads = omp_get_max_threads();
  const Plan plan(s, threads);
  const int64_t size_g = block * most_outputs, size_x = block * most_inputs;
  Workspace space(Workspace::bytes_for(plan.ranges * plan.sums()) + Workspace::bytes_for(threads * (size_g + size_x)) +
                  Workspace::bytes_for(most_inputs));
  float *sums = space.floats(plan.ranges * plan.sums()), *packed = space.floats(threads * (size_g + size_x));
  float* zeros = space.floats(most_inputs);
  for (int64_t c = 0; c < most_inputs; ++c) zeros[c] = 0;
  const Reading reading(p.norm, s.in_channels);
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* own = packed + omp_get_thread_num() * (size_g + size_x);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < plan.items(); ++item)
      run_item(p, reading, plan, item, own, own + size_g, sums, zeros);
#pragma omp for collapse(2) schedule(static)
    for (int64_t k = 0; k < s.out_channels; ++k)
      for (int64_t tap = 0; tap < plan.taps; ++tap) add_ranges(p, plan, sums, k, tap);
  }
}

bool weight_gradient_applies(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  return !p.argmax && s.in_channels / s.groups >= 8 && s.out_channels / s.groups >= 8;
}

}  // namespace
}  // namespace direct

extern const Kernel<ConvWeightGradient> direct_weight_gradient;
const Kernel<ConvWeightGradient> direct_weight_gradient{
    "direct", "direct: outer products of gradient and input, summed in the cache", direct::weight_gradient_applies,
    direct::weight_gradient};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
