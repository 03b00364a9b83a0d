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
#include "direct_weight_gradient.hpp"
#include "reading.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace direct {
namespace {

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
          later = add_products<true>(a, b, count, to, plan.columns, first == begin, cs - c <= lanes, later);
        }
    }
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
