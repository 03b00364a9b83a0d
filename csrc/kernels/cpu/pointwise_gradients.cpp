// Both gradients of a 1×1 convolution in front of a batch norm, in one pass over its maps.
//
// A thread takes a range of pixels. Of a few of them at a time it makes the gradient of the convolution's output, from
// that behind the batch norm, and leaves it packed in its cache; from there both products read it: with the weight the
// input's gradient, with the input the weight's. It is never in memory: of five passes over maps of its size (two read
// to make it, one written, that one read twice) two are left.
//
// The sums are those of the direct kernels, in their order: the same bits as from one pass after the other.
#include <omp.h>

#include "../arena.hpp"
#include "direct_weight_gradient.hpp"
#include "norm_gradient.hpp"
#include "norm_sums.hpp"
#include "reading.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace direct {
namespace {

inline constexpr int64_t pixels_together = 4;  // that share what is loaded for their channels
// From one pack of the packed gradient to the next: a cache line more than the pixels, which would all meet in the same
// sets.
inline constexpr int64_t pack_step = (block + 1) * pack;

struct Products {
  const ConvGradients& p;
  const Plan& plan;
  const NormGradientLines& lines;
  const float* weight;  // W[panel][outer][panel width]
  float *packed_g, *packed_x;

  // packed_g[pack][pixel][channel] of `count` pixels.
  template <Activation activation>
  void pack_gradient(int64_t first, int64_t count, int64_t end) const {
    const int64_t channels = plan.outer;
    const auto some = [&]<int pixels>(int64_t i) __attribute__((always_inline)) {
      const float* g = p.output_gradient + (first + i) * channels;
      const float* z = p.output_norm.map + (first + i) * channels;
      const int64_t later = (least(end - 1, first + i + ahead) - first - i) * channels;
      for (int64_t c = 0; c < plan.rows; c += lanes) {
        const NormGradient gradient = lines.gradient_at(c);
        const int64_t left = channels - c;
#pragma GCC unroll 4
        for (int64_t j = 0; j < pixels; ++j) {
          Vec dz{};
          if (left > 0) {
            if (c % 16 == 0) {
              __builtin_prefetch(g + j * channels + c + later);
              __builtin_prefetch(z + j * channels + c + later);
            }
            const int64_t at = j * channels + c;
            dz = gradient.behind<activation>(load_channels(g + at, left), load_channels(z + at, left));
          }
          store(packed_g + c / pack * pack_step + (i + j) * pack + c % pack, dz);
        }
      }
    };
    int64_t i = 0;
    for (; i + pixels_together <= count; i += pixels_together) some.template operator()<int(pixels_together)>(i);
    for (; i < count; ++i) some.template operator()<1>(i);
  }

  void pack_input(const Reading& reading, int64_t first, int64_t count, int64_t end) const {
    const int64_t channels = plan.inner;
    reading.with([&]<class Way>(const Way& way) {
      for (int64_t i = 0; i < count; ++i)
        pack_pixel<panel>(p.input + (first + i) * channels, p.input + least(end - 1, first + i + ahead) * channels,
                          channels, packed_x + i * panel,
                          [&](int64_t c, Vec x) __attribute__((always_inline)) { return way.at(c)(x); });
    });
  }

  // to[row][0..left) = Σ_k of some pixels' gradients. `later`: as many pixels whose two maps are fetched meanwhile, or
  // none below 0.
  template <int rows, int vectors>
  PYCONVOPT_INLINE void tile(int64_t pixel, const float* w, float* to, int64_t left, int64_t later) const {
    Vec sum[rows][vectors] = {};
    for (int64_t k = 0; k < plan.outer; k += pack) {
      const float* a = packed_g + k / pack * pack_step + pixel * pack;
      if (later >= 0)
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
          __builtin_prefetch(p.output_gradient + (later + r) * plan.outer + k, 0, 2);
          __builtin_prefetch(p.output_norm.map + (later + r) * plan.outer + k, 0, 2);
        }
      const int64_t steps = least(pack, plan.outer - k);
      for (int64_t s = 0; s < steps; ++s) {
        Vec factor[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) factor[v] = load(w + s * panel + v * lanes);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
          const Vec value = broadcast(a[r * pack + s]);
#pragma GCC unroll 2
          for (int v = 0; v < vectors; ++v) sum[r][v] += value * factor[v];
        }
      }
      w += steps * panel;
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) store_channels(to + r * plan.inner + v * lanes, sum[r][v], left - v * lanes);
  }

  void input_gradient(int64_t first, int64_t count, int64_t end) const {
    const auto [shares, each] = Shares(count);
    for (int64_t c = 0; c < plan.inner; c += panel) {
      const float* w = weight + c * plan.outer;
      const int64_t left = least(panel, plan.inner - c);
      for (int64_t r = 0; r < count; r += each) {
        float* to = p.input_gradient + (first + r) * plan.inner + c;
        const int64_t later = first + block + r;
        with_rows<product_rows>(int(least(each, count - r)), [&]<int rows>() {
          const int64_t fetched = c == 0 && later + rows <= end ? later : -1;
          if (left > lanes) tile<rows, 2>(r, w, to, left, fetched);
          else tile<rows, 1>(r, w, to, left, fetched);
        });
      }
    }
  }

  void weight_gradient(int64_t count, bool start, float* sums) const {
    for (int64_t c = 0; c < plan.inner; c += panel)
      for (int64_t k = 0; k < plan.outer; k += pack)
        add_products<false>(packed_g + k / pack * pack_step, packed_x + c * block, count, sums + k * plan.columns + c,
                            plan.columns, start, plan.inner - c <= lanes);
  }
};

ConvWeightGradient weight_problem(const ConvGradients& p) {
  return {.shape = p.shape,
          .input = p.input,
          .output_gradient = p.output_gradient,
          .weight_gradient = p.weight_gradient,
          .weight_strides = p.weight_gradient_strides,
          .norm = p.norm};
}

void gradients(const ConvGradients& p) {
  const ConvShape& s = p.shape;
  const int threads = omp_get_max_threads();
  const Plan plan(s, threads);
  const WeightView view{
      p.weight, s.in_channels, s.out_channels, 1, 1, p.weight_strides.in_channel, p.weight_strides.out_channel, 0, 0};
  const int64_t size_g = pack_step * (plan.rows / pack), size_x = block * plan.columns;
  const int64_t size_w = view.panels() * view.panel_floats(), size_lines = NormGradientLines::floats(s.out_channels);
  Workspace space(Workspace::bytes_for(plan.ranges * plan.sums()) + Workspace::bytes_for(threads * (size_g + size_x)) +
                  Workspace::bytes_for(size_w) + Workspace::bytes_for(size_lines));
  float *sums = space.floats(plan.ranges * plan.sums()), *packed = space.floats(threads * (size_g + size_x));
  float* weight = space.floats(size_w);
  const OutputNorm& output = p.output_norm;
  NormGradientLines lines(output.norm, s.out_channels, space.floats(size_lines));
  for (int64_t c = 0; c < s.out_channels; ++c)
    lines.set_sums(output.norm, c, output.weight_gradient[c], output.bias_gradient[c], plan.pixels);
  const Reading reading(p.norm, s.in_channels);
  const ConvWeightGradient weights = weight_problem(p);
  static_assert(block % NormSums::largest_piece == 0, "a range holds whole pieces");
  const bool sums_wanted = p.norm_weight_gradient != nullptr;
  NormSums norm_sums(sums_wanted ? plan.pixels : 0, s.in_channels);
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* own = packed + omp_get_thread_num() * (size_g + size_x);
    const Products products{p, plan, lines, weight, own, own + size_g};
#pragma omp for schedule(static)
    for (int64_t vector = 0; vector < 2 * view.panels(); ++vector) pack_tap(view, vector, 0, weight);
#pragma omp for schedule(dynamic)
    for (int64_t range = 0; range < plan.ranges; ++range) {
      const int64_t begin = range * plan.each, end = least(plan.pixels, begin + plan.each);
      for (int64_t first = begin; first < end; first += block) {
        const int64_t count = least(block, end - first);
        with_activation(output.norm.activation,
                        [&]<Activation known>() { products.pack_gradient<known>(first, count, end); });
        products.input_gradient(first, count, end);
        products.pack_input(reading, first, count, end);
        if (sums_wanted)
          norm_sums.add_rows(p.norm->activation, reading.lines(), p.input_gradient, p.input, true, first,
                             first + count);
        products.weight_gradient(count, first == begin, sums + range * plan.sums());
      }
    }
#pragma omp for schedule(static)
    for (int64_t k = 0; k < s.out_channels; ++k) add_ranges(weights, plan, sums, k, 0);
  }
  if (sums_wanted) norm_sums.leave(*p.norm, p.norm_weight_gradient, p.norm_bias_gradient);
}

// Ranges enough for many threads. What a thread goes back to is the weight, its gradient, the packed gradient of some
// pixels, and what is fetched for the next ones: of more than about stays in a second-level cache nothing is gained.
bool gradients_applies(const ConvGradients& p) {
  const ConvShape& s = p.shape;
  if (!pointwise(s) || s.groups != 1 || s.in_channels < 8 || s.out_channels < 8) return false;
  const int64_t floats = 2 * (s.in_channels + block) * s.out_channels;
  return s.batch * s.out_height() * s.out_width() >= 32 * block &&
         floats * int64_t(sizeof(float)) <= 3 * second_level_cache() / 2;
}

}  // namespace
}  // namespace direct

extern const Kernel<ConvGradients> pointwise_gradients;
const Kernel<ConvGradients> pointwise_gradients{"pointwise",
                                                "1×1: both gradients in one pass, the batch norm's own made on the way",
                                                direct::gradients_applies, direct::gradients};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
