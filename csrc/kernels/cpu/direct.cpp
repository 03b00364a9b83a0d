// Direct convolution, forward and data gradient.  (The method: direct.hpp.)
//
// The data gradient of a strided convolution falls into stride × stride phases: the pixels of the
// input at the same offset modulo the stride meet the same taps, and only those. Each phase is an
// ordinary product over its taps; no zeros are inserted and nothing is multiplied by them.
#include "direct.hpp"

#include <omp.h>

#include "../arena.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace direct {
namespace {

inline constexpr int64_t strip = 4 * block_pixels;  // pixels whose pointers are made at once

// One dimension of a result's pixels: `count` of them from `first`, `step` apart.
struct Line {
  int64_t first, step, count;
  int64_t at(int64_t i) const { return first + i * step; }
};

// A product over the pixels of a map. For tap (r, q) the result's pixel (y, x) reads the source's
// pixel (row_of(y, r), column_of(x, q)).
struct Job {
  Line rows, columns;  // the result's pixels
  int64_t taps;
  const int32_t* tap;   // their numbers in the weight, for `packed`
  const float* packed;  // W[panel][tap][inner][panel width], these taps only
};

template <class Source>
void run_strip(const Job& job, const Source& source, int64_t first, int64_t count, int64_t inner, int64_t outer,
               const float** pointers, const float* bias, bool clamp, float* result, int64_t result_height,
               int64_t result_width, int64_t result_channels) {
  float* targets[strip];
  const int64_t image_pixels = job.rows.count * job.columns.count;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t pixel = first + i, image = pixel / image_pixels, inside = pixel % image_pixels;
    const int64_t y = job.rows.at(inside / job.columns.count), x = job.columns.at(inside % job.columns.count);
    targets[i] = result + ((image * result_height + y) * result_width + x) * result_channels;
    for (int64_t t = 0; t < job.taps; ++t) pointers[t * strip + i] = source(image, y, x, job.tap[t]);
  }
  for (int64_t k0 = 0; k0 < outer; k0 += panel) {
    const float* w = job.packed + k0 / panel * job.taps * inner * panel;
    Vec start[2] = {};
    if (bias) {
      start[0] = load_channels(bias + k0, outer - k0);
      if (k0 + lanes < outer) start[1] = load_channels(bias + k0 + lanes, outer - k0 - lanes);
    }
    for (int64_t i = 0; i < count; i += block_pixels) {
      const int n = int(least(block_pixels, count - i));
      Vec sums[block_pixels][2];
      with_rows<block_pixels>(
          n, [&]<int rows>() { pixels_times_taps<rows>(pointers + i, strip, job.taps, inner, w, sums); });
      for (int r = 0; r < n; ++r)
        for (int half = 0; half < 2; ++half)
          if (const int64_t k = k0 + half * lanes; k < outer) {
            const Vec value = sums[r][half] + start[half];
            store_channels(targets[i + r] + k, clamp ? relu(value) : value, outer - k);
          }
    }
  }
}

// All pixels of a job, in strips over the threads.
template <class Source>
void run_job(const Job& job, const Source& source, int64_t batch, int64_t inner, int64_t outer, const float* bias,
             bool clamp, float* result, int64_t result_height, int64_t result_width, int64_t result_channels) {
  const int64_t pixels = batch * job.rows.count * job.columns.count, strips = (pixels + strip - 1) / strip;
  const int threads = omp_get_max_threads();
  Workspace space(threads * Workspace::bytes_for(job.taps * strip * 2));
  const float** pointers = reinterpret_cast<const float**>(space.floats(threads * job.taps * strip * 2));
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    const float** own = pointers + omp_get_thread_num() * job.taps * strip;
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < strips; ++i)
      run_strip(job, source, i * strip, least(strip, pixels - i * strip), inner, outer, own, bias, clamp, result,
                result_height, result_width, result_channels);
  }
}

void pack(const WeightView& view, const int32_t* taps, int64_t count, float* packed) {
  WeightView chosen = view;
  chosen.taps = count;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t vector = 0; vector < 2 * view.panels(); ++vector)
    for (int64_t t = 0; t < count; ++t) {
      WeightView one = chosen;
      one.data = view.data + view.tap_offset(taps[t]);
      one.row = one.column = 0;
      pack_tap(one, vector, t, packed);
    }
}

void forward(const ConvForward& p) {
  const ConvShape& s = p.shape;
  const int64_t taps = s.kernel_height * s.kernel_width, inner = s.in_channels / s.groups,
                outer = s.out_channels / s.groups;
  const WeightView view{p.weight,
                        outer,
                        inner,
                        taps,
                        s.kernel_width,
                        p.weight_strides.out_channel,
                        p.weight_strides.in_channel,
                        p.weight_strides.row,
                        p.weight_strides.column};
  Workspace space(Workspace::bytes_for(view.panels() * view.panel_floats()) + Workspace::bytes_for(inner) +
                  Workspace::bytes_for(taps));
  float* packed = space.floats(view.panels() * view.panel_floats());
  float* zeros = space.floats(inner);
  int32_t* all = reinterpret_cast<int32_t*>(space.floats(taps));
  for (int64_t c = 0; c < inner; ++c) zeros[c] = 0;
  for (int64_t t = 0; t < taps; ++t) all[t] = int32_t(t);
  for (int64_t g = 0; g < s.groups; ++g) {
    WeightView group = view;
    group.data += g * outer * view.outer_stride;
    pack(group, all, taps, packed);
    const float* input = p.input + g * inner;
    const auto source = [&](int64_t image, int64_t y, int64_t x, int64_t tap) -> const float* {
      const int64_t iy = y * s.stride_height - s.padding_height + tap / s.kernel_width * s.dilation_height;
      const int64_t ix = x * s.stride_width - s.padding_width + tap % s.kernel_width * s.dilation_width;
      if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) return zeros;
      return input + ((image * s.in_height + iy) * s.in_width + ix) * s.in_channels;
    };
    const Job job{{0, 1, s.out_height()}, {0, 1, s.out_width()}, taps, all, packed};
    run_job(job, source, s.batch, inner, outer, p.bias ? p.bias + g * outer : nullptr, p.activation == Activation::relu,
            p.output + g * outer, s.out_height(), s.out_width(), s.out_channels);
  }
}

void data_gradient(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  const int64_t taps = s.kernel_height * s.kernel_width, inner = s.out_channels / s.groups,
                outer = s.in_channels / s.groups;
  const int64_t height = s.out_height(), width = s.out_width();
  const WeightView view{p.weight,
                        outer,
                        inner,
                        taps,
                        s.kernel_width,
                        p.weight_strides.in_channel,
                        p.weight_strides.out_channel,
                        p.weight_strides.row,
                        p.weight_strides.column};
  Workspace space(Workspace::bytes_for(view.panels() * view.panel_floats()) + Workspace::bytes_for(inner) +
                  Workspace::bytes_for(taps));
  float* packed = space.floats(view.panels() * view.panel_floats());
  float* zeros = space.floats(inner);
  int32_t* chosen = reinterpret_cast<int32_t*>(space.floats(taps));
  for (int64_t c = 0; c < inner; ++c) zeros[c] = 0;
  for (int64_t g = 0; g < s.groups; ++g) {
    WeightView group = view;
    group.data += g * inner * view.inner_stride;
    const float* gradient = p.output_gradient + g * inner;
    // The output pixel that reads input pixel (y, x) through the tap, if there is one.
    const auto source = [&](int64_t image, int64_t y, int64_t x, int64_t tap) -> const float* {
      const int64_t oy = y + s.padding_height - tap / s.kernel_width * s.dilation_height;
      const int64_t ox = x + s.padding_width - tap % s.kernel_width * s.dilation_width;
      if (oy < 0 || ox < 0 || oy >= height * s.stride_height || ox >= width * s.stride_width) return zeros;
      return gradient + ((image * height + oy / s.stride_height) * width + ox / s.stride_width) * s.out_channels;
    };
    for (int64_t a = 0; a < least(s.stride_height, s.in_height); ++a)
      for (int64_t b = 0; b < least(s.stride_width, s.in_width); ++b) {
        int64_t count = 0;
        for (int64_t t = 0; t < taps; ++t)
          if ((a + s.padding_height - t / s.kernel_width * s.dilation_height) % s.stride_height == 0 &&
              (b + s.padding_width - t % s.kernel_width * s.dilation_width) % s.stride_width == 0)
            chosen[count++] = int32_t(t);
        const Job job{{a, s.stride_height, (s.in_height - a + s.stride_height - 1) / s.stride_height},
                      {b, s.stride_width, (s.in_width - b + s.stride_width - 1) / s.stride_width},
                      count,
                      chosen,
                      packed};
        pack(group, chosen, count, packed);
        run_job(job, source, s.batch, inner, outer, nullptr, false, p.input_gradient + g * outer, s.in_height,
                s.in_width, s.in_channels);
      }
  }
}

// Groups so small that vectors would stay half empty are left to others.
bool takes_shape(const ConvShape& s) {
  return s.in_channels / s.groups >= 8 && s.out_channels / s.groups >= 8 && s.kernel_height * s.kernel_width <= 1024;
}
bool forward_applies(const ConvForward& p) { return !p.pool && takes_shape(p.shape); }
bool data_gradient_applies(const ConvDataGradient& p) { return !p.argmax && takes_shape(p.shape); }

}  // namespace
}  // namespace direct

constexpr const char* why = "direct: products over pointers to the pixels, nothing is copied";
extern const Kernel<ConvForward> direct_forward;
const Kernel<ConvForward> direct_forward{"direct", why, direct::forward_applies, direct::forward};
extern const Kernel<ConvDataGradient> direct_data_gradient;
const Kernel<ConvDataGradient> direct_data_gradient{"direct", why, direct::data_gradient_applies,
                                                    direct::data_gradient};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
