// Batch normalisation, dropout, pooling, activations, sums and cross-entropy over the maps of tests/cases.py, and over
// one of more than 4 MB, where the rows are walked in another order.
#include "activation.hpp"
#include "check.hpp"
#include "cross_entropy.hpp"
#include "norm.hpp"
#include "pool.hpp"

namespace pyconvopt::check {
namespace {

#define CONV_CASE(...)
#define MAP_CASE(...) {__VA_ARGS__},
const MapShape shapes[] = {
#include "cases.inc"
    {5, 79, 80, 37}};
#undef CONV_CASE
#undef MAP_CASE

int64_t size_of(const MapShape& s) { return s.rows() * s.channels; }
int64_t pooled_size(const MapShape& s) { return s.batch * (s.height / 2) * (s.width / 2) * s.channels; }

std::string text_of(const MapShape& s) {
  return std::to_string(s.batch) + " x " + std::to_string(s.height) + " x " + std::to_string(s.width) + " x " +
         std::to_string(s.channels);
}

struct NormOptions {
  Activation activation;
  bool pool;
  double dropout;
  bool residual, training;
};
constexpr const char* names[activation_count] = {"", " relu", " relu6", " hardswish"};
constexpr NormOptions norm_options[] = {
    {Activation::none, false, 0, false, true},       {Activation::relu, false, 0, false, true},
    {Activation::relu, false, 0.3, false, true},     {Activation::none, true, 0, false, true},
    {Activation::relu, true, 0, false, true},        {Activation::none, true, 0.3, false, true},
    {Activation::relu, true, 0.3, false, true},      {Activation::relu, false, 0.3, true, true},
    {Activation::none, false, 0, true, true},        {Activation::relu, false, 0, true, true},
    {Activation::none, false, 0, false, false},      {Activation::relu, false, 0, false, false},
    {Activation::relu, true, 0, false, false},       {Activation::relu6, false, 0, false, true},
    {Activation::hardswish, false, 0, false, true},  {Activation::relu6, false, 0, false, false},
    {Activation::hardswish, false, 0, false, false},
};

void check_batch_norm(const MapShape& s, const NormOptions& o) {
  const std::string text = text_of(s) + names[int(o.activation)] + (o.pool ? " pool" : "") +
                           (o.dropout > 0 ? " dropout" : "") + (o.residual ? " residual" : "") +
                           (o.training ? "" : " evaluation");
  const int64_t c = s.channels, size = o.pool ? pooled_size(s) : size_of(s);
  const Floats x = draw(size_of(s), 2, 3), w = draw(c, 1), b = draw(c), residual = draw(size_of(s)), g = draw(size);
  const Floats mean = draw(c), variance = draw(c, 0.1f, 1);
  BatchNormForward forward{.shape = s, .input = x.data(), .weight = w.data(), .bias = b.data()};
  forward.residual = o.residual ? residual.data() : nullptr;
  forward.training = o.training;
  forward.activation = o.activation;
  forward.pool = o.pool;
  forward.dropout = {o.dropout, 5, 7};
  const auto bind = [&](BatchNormForward& p, Results& r) {
    p.output = r.floats(size);
    p.argmax = o.pool ? r.bytes(size) : nullptr;
    p.saved_mean = r.floats(c), p.saved_invstd = r.floats(c);
    p.running_mean = r.floats(mean), p.running_variance = r.floats(variance);
  };
  check("BatchNormForward", text, forward, 2e-5, bind);

  Results left;  // by the reference, for the backward of all
  set_isa("reference");
  bind(forward, left);
  run(forward);
  BatchNormBackward backward{.shape = s, .output_gradient = g.data(), .input = x.data()};
  backward.output = o.activation == Activation::relu && !o.pool ? forward.output : nullptr;
  backward.argmax = forward.argmax;
  backward.weight = w.data(), backward.bias = b.data();
  backward.saved_mean = forward.saved_mean, backward.saved_invstd = forward.saved_invstd;
  backward.training = o.training;
  backward.activation = o.activation;
  backward.pool = o.pool;
  backward.dropout_probability = o.dropout;
  const auto bind_gradients = [&](BatchNormBackward& p, Results& r) {
    p.input_gradient = r.floats(size_of(s));
    p.residual_gradient = o.residual ? r.floats(size_of(s)) : nullptr;
    p.weight_gradient = r.floats(c), p.bias_gradient = r.floats(c);
  };
  check("BatchNormBackward", text, backward, 5e-5, bind_gradients);
  if (o.training && !o.pool && !o.residual && o.dropout == 0) {
    BatchNormBackward known = backward;
    known.known_weight_gradient = w.data(), known.known_bias_gradient = b.data();
    check("BatchNormBackward", text + " of known sums", known, 5e-5,
          [&](BatchNormBackward& p, Results& r) { p.input_gradient = r.floats(size_of(s)); });
  }
  if (!backward.output || o.dropout > 0 || o.residual) return;
  backward.output = nullptr;
  check("BatchNormBackward", text + " from the input", backward, 5e-5, bind_gradients);
}

void check_dropout(const MapShape& s, const Floats& x) {
  for (const double p : {0.0, 0.3, 1.0})
    for (const bool whole_channels : {false, true}) {
      Dropout problem{.size = size_of(s), .input = x.data(), .key = {p, 0x123456789abcdefull, (1ull << 40) + 3}};
      if (whole_channels) problem.pixels = s.height * s.width, problem.channels = s.channels;
      check("Dropout", text_of(s) + " p=" + std::to_string(p), problem, 0,
            [&](Dropout& d, Results& r) { d.output = r.floats(d.size); });
    }
}

void check_max_pool(const MapShape& s, const Floats& x) {
  check("MaxPoolForward", text_of(s), MaxPoolForward{s, x.data()}, 0, [&](MaxPoolForward& p, Results& r) {
    p.output = r.floats(pooled_size(s)), p.argmax = r.bytes(pooled_size(s));
  });
  const Floats g = draw(pooled_size(s));
  const Bytes argmax = draw_argmax(pooled_size(s));
  for (const bool summed : {false, true})
    check("MaxPoolBackward", text_of(s), MaxPoolBackward{s, g.data(), argmax.data()}, 1e-5,
          [&](MaxPoolBackward& p, Results& r) {
            p.input_gradient = r.floats(size_of(s)), p.channel_sum = summed ? r.floats(s.channels) : nullptr;
          });
}

void check_window_pool(const MapShape& s, const Floats& x) {
  struct Window {
    int64_t height, width, stride, padding;
  };
  const int64_t c = s.channels;
  const Floats mean = draw(c), invstd = draw(c, 0.1f, 1), w = draw(c), b = draw(c);
  for (const Window& window :
       {Window{3, 3, 2, 1}, {3, 3, 1, 1}, {3, 3, 2, 0}, {2, 3, 1, 0}, {5, 4, 3, 2}, {2, 1, 3, 0}}) {
    if (s.height + 2 * window.padding < window.height || s.width + 2 * window.padding < window.width) continue;
    const PoolAxis rows = PoolAxis::of(s.height, window.height, window.stride, window.padding);
    const PoolAxis columns = PoolAxis::of(s.width, window.width, window.stride, window.padding);
    const int64_t size = s.batch * rows.pooled * columns.pooled * c;
    const std::string text = text_of(s) + " window " + std::to_string(window.height) + " x " +
                             std::to_string(window.width) + " stride " + std::to_string(window.stride);
    const auto bind = [&](WindowPoolForward& p, Results& r) { p.output = r.floats(size), p.argmax = r.bytes(size); };
    WindowPoolForward forward{s.batch, c, rows, columns, x.data()};
    check("WindowPoolForward", text, forward, 0, bind);
    for (int activation = 0; activation < activation_count; ++activation) {
      const InputNorm norm{mean.data(), invstd.data(), w.data(), b.data(), Activation(activation)};
      forward.norm = &norm;
      check("WindowPoolForward", text + " of a norm" + names[activation], forward, 2e-6, bind);
    }
    forward.norm = nullptr;
    Results left;  // by the reference, for the backward of all
    set_isa("reference");
    bind(forward, left);
    run(forward);
    const Floats g = draw(size);
    check("WindowPoolBackward", text, WindowPoolBackward{s.batch, c, rows, columns, g.data(), forward.argmax}, 3e-6,
          [&](WindowPoolBackward& p, Results& r) { p.input_gradient = r.floats(size_of(s)); });
  }
}

void check_average_pool(const MapShape& s) {
  struct Window {
    int64_t kernel, stride, padding;
    bool count_padding;
    int64_t divisor;
  };
  for (const Window& w : {Window{2, 2, 0, true, 0}, {3, 2, 1, true, 0}, {3, 1, 1, false, 0}, {2, 3, 0, true, 5}}) {
    if (s.height < w.kernel || s.width < w.kernel) continue;
    const PoolAxis rows = PoolAxis::of(s.height, w.kernel, w.stride, w.padding);
    const PoolAxis columns = PoolAxis::of(s.width, w.kernel, w.stride, w.padding);
    const Floats g = draw(s.batch * rows.pooled * columns.pooled * s.channels);
    const AveragePoolBackward problem{s.batch, s.channels, rows, columns, w.count_padding, w.divisor, g.data()};
    check("AveragePoolBackward", text_of(s), problem, 1e-6,
          [&](AveragePoolBackward& p, Results& r) { p.input_gradient = r.floats(size_of(s)); });
  }
}

void check_relu(const MapShape& s, const Floats& x) {
  check("ReluForward", text_of(s), ReluForward{size_of(s), x.data()}, 0,
        [&](ReluForward& p, Results& r) { p.output = r.floats(p.size); });
  const Floats g = draw(size_of(s));
  for (const bool summed : {false, true})
    check("ReluBackward", text_of(s), ReluBackward{s.rows(), s.channels, g.data(), x.data()}, 1e-5,
          [&](ReluBackward& p, Results& r) {
            p.input_gradient = r.floats(size_of(s)), p.channel_sum = summed ? r.floats(s.channels) : nullptr;
          });
  check("ChannelSum", text_of(s), ChannelSum{s.rows(), s.channels, x.data()}, 1e-5,
        [&](ChannelSum& p, Results& r) { p.sum = r.floats(s.channels); });
}

void check_activations(const MapShape& s) {
  const Floats x = draw(size_of(s), 3), g = draw(size_of(s));
  for (int function = 0; function < functions; ++function) {
    const Function f = Function(function);
    const std::string text = text_of(s) + " function " + std::to_string(function);
    const float alpha = 1.5f, scale = f == Function::softplus ? 4.0f : 1.25f;
    ActivationForward forward{f, alpha, scale, size_of(s), x.data()};
    const auto bind = [&](ActivationForward& p, Results& r) { p.output = r.floats(p.size); };
    check("ActivationForward", text, forward, 1e-6, bind);
    Results left;  // by the reference, for the backward of all
    set_isa("reference");
    bind(forward, left);
    run(forward);
    const float* kept = derivative_from_output(f) ? forward.output : x.data();
    check("ActivationBackward", text, ActivationBackward{f, alpha, scale, size_of(s), g.data(), kept}, 3e-6,
          [&](ActivationBackward& p, Results& r) { p.input_gradient = r.floats(p.size); });
  }
}

void check_cross_entropy(const MapShape& s) {
  const Floats x = draw(size_of(s), 3), w = draw(s.channels, 0.1f, 1);
  std::vector<int64_t> target(static_cast<std::size_t>(s.rows()));
  for (std::size_t i = 0; i < target.size(); ++i) target[i] = i % 5 == 3 ? -100 : int64_t(i * 7) % s.channels;
  for (const Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum})
    for (const double smoothing : {0.0, 0.2})
      for (const bool weighted : {false, true})
        for (const bool graded : {false, true}) {
          if (graded && s.channels == 1) continue;  // of one class nothing but rounding
          CrossEntropy problem{s.rows(), s.channels, x.data(), target.data(), weighted ? w.data() : nullptr};
          problem.smoothing = smoothing, problem.reduction = reduction;
          check("CrossEntropy", text_of(s) + " reduction " + std::to_string(int(reduction)), problem, 3e-6,
                [&](CrossEntropy& p, Results& r) {
                  p.loss = r.floats(reduction == Reduction::none ? s.rows() : 1);
                  p.gradient = graded ? r.floats(size_of(s)) : nullptr;
                });
        }
}

}  // namespace

void check_rows() {
  for (const MapShape& s : shapes) {
    for (const NormOptions& options : norm_options) check_batch_norm(s, options);
    const Floats x = draw(size_of(s));
    check_dropout(s, x);
    check_max_pool(s, x);
    check_window_pool(s, x);
    check_average_pool(s);
    check_relu(s, x);
    check_activations(s);
    check_cross_entropy(s);
  }
}

}  // namespace pyconvopt::check
