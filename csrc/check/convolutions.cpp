// The convolution kernels over tests/cases.py: all passes, pooled and not, both orders of weights.
#include "conv.hpp"

#include <utility>

#include "check.hpp"

namespace pyconvopt::check {
namespace {

constexpr double map_bound = 2e-5, weight_bound = 1e-4;  // Winograd's; see tests/test_kernels_conv.py

struct Case {
  const char* name;
  ConvShape shape;
};
#define CONV_CASE(name, ...) {name, {__VA_ARGS__}},
#define MAP_CASE(...)
const Case cases[] = {
#include "cases.inc"
};
#undef CONV_CASE
#undef MAP_CASE

// The argmax is right if the map has the pooled value there: pixels may be equal, and rounding decides.
void check_pooled_forward(const std::string& text, const ConvForward& problem) {
  const ConvShape& s = problem.shape;
  const int64_t height = s.out_height() / 2, width = s.out_width() / 2, channels = s.out_channels;
  const int64_t size = s.batch * height * width * channels;
  ConvForward unpooled = problem;
  Floats map(static_cast<std::size_t>(s.batch * s.out_height() * s.out_width() * channels));
  unpooled.output = map.data();
  set_isa("reference");
  run(unpooled);
  ConvForward pooled = problem;
  pooled.pool = true;
  check(
      "ConvForward", text + ", pooled", pooled, map_bound,
      [&](ConvForward& p, Results& r) { p.output = r.floats(size), p.argmax = r.any_bytes(size); },
      [&](const ConvForward& p, Results& r) {
        float* chosen = r.floats(size);
        for (int64_t i = 0; i < size; ++i) {
          const int64_t x = i / channels % width, line = i / channels / width, n = line / height, y = line % height;
          const int64_t row = 2 * y + p.argmax[i] / 2, column = 2 * x + p.argmax[i] % 2;
          if (p.argmax[i] == pool_dead) chosen[i] = 0;
          else if (p.argmax[i] < pool_dead)
            chosen[i] = map[((n * s.out_height() + row) * s.out_width() + column) * channels + i % channels];
        }
      });
}

void check_case(const Case& the_case) {
  const ConvShape& s = the_case.shape;
  const std::string name = the_case.name;
  const int64_t inner = s.in_channels / s.groups, taps = s.kernel_height * s.kernel_width;
  const int64_t height = s.out_height(), width = s.out_width();
  const int64_t input_size = s.batch * s.in_height * s.in_width * s.in_channels;
  const int64_t output_size = s.batch * height * width * s.out_channels, weight_size = s.out_channels * inner * taps;
  const int64_t pooled_size = s.batch * (height / 2) * (width / 2) * s.out_channels;
  const Floats x = draw(input_size), w = draw(weight_size, 0.1f), b = draw(s.out_channels), g = draw(output_size);
  Floats pooled_g = draw(pooled_size);
  const Floats mean = draw(s.in_channels), invstd = draw(s.in_channels), norm_bias = draw(s.in_channels);
  const InputNorm norm{mean.data(), invstd.data(), nullptr, norm_bias.data(), Activation::relu};
  const Floats z = draw(output_size), output_mean = draw(s.out_channels), output_invstd = draw(s.out_channels),
               output_weight = draw(s.out_channels);
  const OutputNorm output_norm{
      z.data(),
      {output_mean.data(), output_invstd.data(), output_weight.data(), b.data(), Activation::relu6},
      output_weight.data(),
      output_mean.data()};
  const Bytes argmax = draw_argmax(pooled_size);
  for (std::size_t i = 0; i < argmax.size(); ++i)
    if (argmax[i] == pool_dead) pooled_g[i] = INFINITY;  // of no window: must have no effect

  const WeightStrides channels_last{taps * inner, 1, s.kernel_width * inner, inner},
      contiguous{inner * taps, taps, s.kernel_width, 1};
  for (const bool last : {true, false}) {
    const WeightStrides strides = last ? channels_last : contiguous;
    const std::string text = name + (last ? ", channels_last" : ", contiguous");
    const auto store_output = [&](ConvForward& p, Results& r) { p.output = r.floats(output_size); };
    ConvForward forward{.shape = s, .input = x.data(), .weight = w.data(), .weight_strides = strides};
    if (last) forward.bias = b.data(), forward.activation = Activation::relu;
    check("ConvForward", text, forward, map_bound, store_output);
    forward.norm = &norm;
    check("ConvForward", text + ", normalized", forward, map_bound, store_output);
    forward.norm = nullptr;
    if (pooled_size) check_pooled_forward(text, forward);

    const auto store_input = [&](ConvDataGradient& p, Results& r) { p.input_gradient = r.floats(input_size); };
    ConvDataGradient data{.shape = s, .output_gradient = g.data(), .weight = w.data(), .weight_strides = strides};
    check("ConvDataGradient", text, data, map_bound, store_input);
    data.output_gradient = pooled_g.data(), data.argmax = argmax.data();
    if (pooled_size) check("ConvDataGradient", text + ", pooled", data, map_bound, store_input);

    const auto store_weight = [&](ConvWeightGradient& p, Results& r) {
      p.weight_gradient = r.floats(weight_size);
      if (p.argmax) p.bias_gradient = r.floats(s.out_channels);
    };
    ConvWeightGradient weight{.shape = s, .input = x.data(), .output_gradient = g.data(), .weight_strides = strides};
    check("ConvWeightGradient", text, weight, weight_bound, store_weight);
    weight.norm = &norm;
    check("ConvWeightGradient", text + ", normalized", weight, weight_bound, store_weight);
    weight.norm = nullptr;
    weight.output_gradient = pooled_g.data(), weight.argmax = argmax.data();
    if (pooled_size) check("ConvWeightGradient", text + ", pooled", weight, weight_bound, store_weight);

    ConvGradients both{.shape = s,
                       .input = x.data(),
                       .norm = last ? &norm : nullptr,
                       .output_gradient = g.data(),
                       .output_norm = output_norm,
                       .weight = w.data(),
                       .weight_strides = strides,
                       .weight_gradient_strides = strides};
    check("ConvGradients", text, both, weight_bound, [&](ConvGradients& p, Results& r) {
      p.input_gradient = r.floats(input_size), p.weight_gradient = r.floats(weight_size);
      if (p.norm) p.norm_weight_gradient = r.floats(s.in_channels), p.norm_bias_gradient = r.floats(s.in_channels);
    });
  }
}

}  // namespace

void check_convolutions(int64_t most_multiplications) {
  for (const Case& the_case : cases) {
    const ConvShape& s = the_case.shape;
    const int64_t multiplications = s.batch * s.out_height() * s.out_width() * s.out_channels * s.kernel_height *
                                    s.kernel_width * (s.in_channels / s.groups);
    if (multiplications <= most_multiplications) check_case(the_case);
  }
}

}  // namespace pyconvopt::check
