// Direct convolution, weight gradient.  (The method: direct.hpp.)
//
//   dW[tap][c][k] = Σ_pixel x[source(pixel, tap)][c] · g[pixel][k]
//
// A thread takes a tap, some input channels and all output channels, and walks over the pixels in
// blocks: a block of the gradient is packed once into panels, then multiplied with the input's
// channels through pointers. Sums run over the pixels in their order, whatever the thread count;
// each block is summed in registers and then added, so rounding grows with blocks, not with pixels.
#include <omp.h>

#include "../arena.hpp"
#include "direct.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace direct {
namespace {

inline constexpr int64_t block = 128;  // pixels
inline constexpr int row_block = vector_registers == 32 ? 8 : 6;

// c[row][panel] (+)= Σ_i from[i][row] · g[i][·] for `rows` input channels.
template <int rows>
PYCONVOPT_INLINE void channels_times_pixels(const float* const* from, int64_t channel, const float* g, int64_t count,
                                            float* sums, bool accumulate) {
  Vec sum[rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) sum[r][0] = sum[r][1] = Vec{};
  for (int64_t i = 0; i < count; ++i) {
    const float* x = from[i] + channel;
    const Vec g0 = load(g + i * panel), g1 = load(g + i * panel + lanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec value = broadcast(x[r]);
      sum[r][0] += value * g0;
      sum[r][1] += value * g1;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    float* at = sums + r * panel;
    store(at, accumulate ? load(at) + sum[r][0] : sum[r][0]);
    store(at + lanes, accumulate ? load(at + lanes) + sum[r][1] : sum[r][1]);
  }
}

void weight_gradient(const ConvWeightGradient& p) {
  const ConvShape& s = p.shape;
  const int threads = omp_get_max_threads();
  const int64_t taps = s.kernel_height * s.kernel_width;
  const int64_t inner = s.in_channels / s.groups, outer = s.out_channels / s.groups;
  const int64_t panels = (outer + panel - 1) / panel;
  const int64_t height = s.out_height(), width = s.out_width(), pixels = s.batch * height * width;
  // Channels an item takes: few enough for all threads to have work, and for its sums to stay in cache.
  const int64_t items_wanted = 4 * threads;
  int64_t chunk = round_up(least(inner, 64), row_block);
  while (chunk > 2 * row_block && s.groups * taps * ((inner + chunk - 1) / chunk) < items_wanted)
    chunk = round_up(chunk / 2, row_block);
  const int64_t chunks = (inner + chunk - 1) / chunk;
  const int64_t panel_group = greatest(1, least(panels, 8)), panel_groups = (panels + panel_group - 1) / panel_group;
  Workspace space(Workspace::bytes_for(inner) +
                  threads * (Workspace::bytes_for(block * panel * panel_group) +
                             Workspace::bytes_for(chunk * panel * panel_group)) +
                  64);
  float* zeros = space.floats(inner);
  float* all_g = space.floats(threads * round_up(block * panel * panel_group, 16));
  float* all_sums = space.floats(threads * round_up(chunk * panel * panel_group, 16));
  for (int64_t c = 0; c < inner; ++c) zeros[c] = 0;

#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* packed = all_g + omp_get_thread_num() * round_up(block * panel * panel_group, 16);
    float* sums = all_sums + omp_get_thread_num() * round_up(chunk * panel * panel_group, 16);
    const float* from[block];
#pragma omp for collapse(4) schedule(dynamic)
    for (int64_t group = 0; group < s.groups; ++group)
      for (int64_t kg = 0; kg < panel_groups; ++kg)
        for (int64_t tap = 0; tap < taps; ++tap)
          for (int64_t part = 0; part < chunks; ++part) {
            const int64_t c0 = part * chunk, cs = least(chunk, inner - c0);
            const int64_t k0 = kg * panel_group * panel, ks = least(panel_group * panel, outer - k0);
            for (int64_t first = 0; first < pixels; first += block) {
              const int64_t count = least(block, pixels - first);
              for (int64_t i = 0; i < count; ++i) {
                const int64_t pixel = first + i, image = pixel / (height * width);
                const int64_t y = pixel / width % height, x = pixel % width;
                const int64_t iy = y * s.stride_height - s.padding_height + tap / s.kernel_width * s.dilation_height;
                const int64_t ix = x * s.stride_width - s.padding_width + tap % s.kernel_width * s.dilation_width;
                const bool inside = iy >= 0 && iy < s.in_height && ix >= 0 && ix < s.in_width;
                from[i] = inside
                              ? p.input + ((image * s.in_height + iy) * s.in_width + ix) * s.in_channels + group * inner
                              : zeros;
                const float* g = p.output_gradient + pixel * s.out_channels + group * outer + k0;
                for (int64_t k = 0; k < round_up(ks, panel); k += lanes)
                  store(packed + k / panel * block * panel + i * panel + k % panel,
                        k < ks ? load_channels(g + k, ks - k) : Vec{});
              }
              for (int64_t k = 0; k < ks; k += panel)
                for (int64_t c = 0; c < cs; c += row_block)
                  with_rows<row_block>(int(least(row_block, cs - c)), [&]<int rows>() {
                    channels_times_pixels<rows>(from, c0 + c, packed + k / panel * block * panel, count,
                                                sums + (k / panel * chunk + c) * panel, first > 0);
                  });
            }
            const WeightStrides& w = p.weight_strides;
            float* out = p.weight_gradient + (group * outer + k0) * w.out_channel + c0 * w.in_channel +
                         tap / s.kernel_width * w.row + tap % s.kernel_width * w.column;
            for (int64_t k = 0; k < ks; ++k)
              for (int64_t c = 0; c < cs; ++c)
                out[k * w.out_channel + c * w.in_channel] = sums[(k / panel * chunk + c) * panel + k % panel];
          }
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
    "direct", "direct: products over pointers to the pixels, nothing is copied", direct::weight_gradient_applies,
    direct::weight_gradient};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
