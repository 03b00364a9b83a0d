// pyconvopt._C: what is not a torch operator. Instruction sets, the kernel table, memory, and the
// kernels on numpy arrays by name (for tests, and for those who want the kernels alone).
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "arena.hpp"
#include "conv.hpp"
#include "dispatch.hpp"
#include "fork.hpp"
#include "map_memory.hpp"
#include "pymodule.hpp"

namespace py = pybind11;

namespace pyconvopt::binding {

void define_elementwise(py::module_& m);  // pymodule_elementwise.cpp
void define_sequence(py::module_& m);     // pymodule_sequence.cpp
void define_cuda(py::module_& m);         // pymodule_cuda.cpp

ConvShape make_shape(int64_t batch, int64_t in_channels, int64_t in_height, int64_t in_width, int64_t out_channels,
                     Pair kernel, Pair stride, Pair padding, Pair dilation, int64_t groups) {
  ConvShape s{batch,          in_channels,    in_height,       in_width,      out_channels,
              kernel.first,   kernel.second,  stride.first,    stride.second, padding.first,
              padding.second, dilation.first, dilation.second, groups};
  const auto positive = [](const char* name, int64_t value) {
    if (value <= 0) throw std::invalid_argument(std::string(name) + " must be positive, got " + std::to_string(value));
  };
  positive("stride", std::min(stride.first, stride.second));
  positive("dilation", std::min(dilation.first, dilation.second));
  positive("kernel size", std::min(kernel.first, kernel.second));
  positive("groups", groups);
  if (std::min(padding.first, padding.second) < 0)
    throw std::invalid_argument("padding must not be negative, got (" + std::to_string(padding.first) + ", " +
                                std::to_string(padding.second) + ")");
  for (const int64_t size : {batch, in_channels, in_height, in_width, out_channels})
    if (size < 0 || size > largest_size)
      throw std::invalid_argument("sizes must lie in 0 to " + std::to_string(largest_size) + ", got " +
                                  std::to_string(size));
  for (const Pair& pair : {kernel, stride, padding, dilation})
    for (const int64_t value : {pair.first, pair.second})
      if (value > largest_hyper)
        throw std::invalid_argument("kernel size, stride, padding and dilation must be at most " +
                                    std::to_string(largest_hyper) + ", got " + std::to_string(value));
  if (in_channels % groups || out_channels % groups)
    throw std::invalid_argument("groups must divide both channel counts");
  if (s.out_height() <= 0 || s.out_width() <= 0)
    throw std::invalid_argument("the kernel is larger than the padded input");
  return s;
}

namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;

template <class P>
const Kernel<P>& pick(const P& p, const std::string& name) {
  return name.empty() ? choose(p) : find(p, name);
}

// (name, reason) of the kernel that a pass of this convolution gets.
std::pair<std::string, std::string> choose_conv(const std::string& pass, const ConvShape& s, const std::string& name) {
  const auto describe = [](const auto& kernel) {
    return std::pair<std::string, std::string>(kernel.name, kernel.reason);
  };
  float wanted;  // of the optional parts the kernels ask only whether there are any
  const InputNorm any_norm{};
  static const uint8_t byte = 0;
  ConvForward forward{.shape = s, .input = {}, .weight = {}, .weight_strides = {}};
  if (pass == "forward_moments") forward.moments = &wanted;
  if (pass == "forward_normalized") forward.norm = &any_norm;
  if (pass == "forward_pool") forward.pool = true;
  if (pass == "forward" || forward.moments || forward.norm || forward.pool) return describe(pick(forward, name));
  if (pass == "gradients")
    return describe(pick(ConvGradients{.shape = s,
                                       .input = {},
                                       .output_gradient = {},
                                       .output_norm = {},
                                       .weight = {},
                                       .weight_strides = {},
                                       .weight_gradient_strides = {}},
                         name));
  const uint8_t* pooled = pass.ends_with("_pool") ? &byte : nullptr;
  const InputNorm* norm = pass.ends_with("_normalized") ? &any_norm : nullptr;
  if (pass.starts_with("data_gradient"))
    return describe(
        pick(ConvDataGradient{.shape = s, .output_gradient = {}, .weight = {}, .weight_strides = {}, .argmax = pooled},
             name));
  if (pass.starts_with("weight_gradient"))
    return describe(pick(
        ConvWeightGradient{
            .shape = s, .input = {}, .output_gradient = {}, .weight_strides = {}, .argmax = pooled, .norm = norm},
        name));
  throw std::invalid_argument("pass must be forward, data_gradient or weight_gradient, got '" + pass + "'");
}

// Weights of the numpy entries are (K, R, S, C): channels last, like the maps.
WeightStrides krsc(const ConvShape& s) {
  const int64_t c = s.in_channels / s.groups;
  return {s.kernel_height * s.kernel_width * c, 1, s.kernel_width * c, c};
}

ConvShape shape_of(const Array& map, const Array& weight, Pair stride, Pair padding, Pair dilation, int64_t groups,
                   Pair input_size) {
  if (map.ndim() != 4 || weight.ndim() != 4)
    throw std::invalid_argument("expected a map (N, H, W, C) and weights (K, R, S, C) of 4 dimensions, got " +
                                std::to_string(map.ndim()) + " and " + std::to_string(weight.ndim()));
  return make_shape(map.shape(0), weight.shape(3) * groups, input_size.first, input_size.second, weight.shape(0),
                    {weight.shape(1), weight.shape(2)}, stride, padding, dilation, groups);
}

void expect_channels(const Array& map, int64_t channels, const char* what) {
  if (map.shape(3) != channels)
    throw std::invalid_argument(std::string(what) + " has " + std::to_string(map.shape(3)) + " channels, expected " +
                                std::to_string(channels));
}

ConvForward forward_problem(const Array& x, const Array& w, const std::optional<Array>& bias, Pair stride, Pair padding,
                            Pair dilation, int64_t groups) {
  const Pair size = x.ndim() == 4 ? Pair{x.shape(1), x.shape(2)} : Pair{};
  const ConvShape s = shape_of(x, w, stride, padding, dilation, groups, size);
  expect_channels(x, s.in_channels, "input");
  if (bias && bias->size() != s.out_channels)
    throw std::invalid_argument("bias must have one element an output channel");
  return {.shape = s,
          .input = x.data(),
          .weight = w.data(),
          .weight_strides = krsc(s),
          .bias = bias ? bias->data() : nullptr};
}

// (mean, invstd, weight, bias, activation's number): what is done to the input while it is read.
using Norm = std::tuple<Array, Array, Array, Array, int64_t>;

std::optional<InputNorm> input_norm(const std::optional<Norm>& given, int64_t channels) {
  if (!given) return std::nullopt;
  const auto& [mean, invstd, weight, bias, activation] = *given;
  for (const Array* vector : {&mean, &invstd, &weight, &bias})
    if (vector->size() != channels)
      throw std::invalid_argument("a norm's vectors must have one element an input channel: " +
                                  std::to_string(channels) + ", got " + std::to_string(vector->size()));
  if (activation < 0 || activation >= activation_count)
    throw std::invalid_argument("activation must be 0 to " + std::to_string(activation_count - 1) + ", got " +
                                std::to_string(activation));
  return InputNorm{mean.data(), invstd.data(), weight.data(), bias.data(), Activation(activation)};
}

py::object conv_forward(const Array& x, const Array& w, const std::optional<Array>& bias, Pair stride, Pair padding,
                        Pair dilation, int64_t groups, bool relu, bool pool, const std::string& kernel,
                        const std::optional<Norm>& given_norm) {
  ConvForward p = forward_problem(x, w, bias, stride, padding, dilation, groups);
  const ConvShape& s = p.shape;
  const std::optional<InputNorm> norm = input_norm(given_norm, s.in_channels);
  p.norm = norm ? &*norm : nullptr;
  const int64_t h = pool ? s.out_height() / 2 : s.out_height(), width = pool ? s.out_width() / 2 : s.out_width();
  Array y({s.batch, h, width, s.out_channels});
  py::array_t<uint8_t> argmax(pool ? std::vector<int64_t>{s.batch, h, width, s.out_channels} : std::vector<int64_t>{0});
  p.activation = relu ? Activation::relu : Activation::none;
  p.pool = pool;
  p.output = y.mutable_data();
  p.argmax = argmax.mutable_data();
  {
    const Kernel<ConvForward>& chosen = pick(p, kernel);
    py::gil_scoped_release release;
    if (y.size()) chosen.run(p);
  }
  if (pool) return py::make_tuple(y, argmax);
  return std::move(y);
}

// The output, and the pieces' statistics of its channels (ConvForward::moments).
std::pair<Array, Array> conv_moments(const Array& x, const Array& w, const std::optional<Array>& bias, Pair stride,
                                     Pair padding, Pair dilation, int64_t groups, const std::string& kernel) {
  ConvForward p = forward_problem(x, w, bias, stride, padding, dilation, groups);
  const ConvShape& s = p.shape;
  Array y({s.batch, s.out_height(), s.out_width(), s.out_channels});
  float wanted;  // the kernels ask only whether there are any
  p.output = y.mutable_data();
  p.moments = &wanted;
  const Kernel<ConvForward>& chosen = pick(p, kernel);
  Array moments({y.size() ? chosen.moment_pieces(p) : 0, moment_line(s.out_channels)});
  p.moments = moments.mutable_data();
  {
    py::gil_scoped_release release;
    if (y.size()) chosen.run(p);
  }
  return {y, moments};
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;

// Of the convolution's output, or with `argmax` of its 2×2-pooled output.
void expect_output_gradient(const Array& g, const ConvShape& s, const std::optional<Bytes>& argmax) {
  const int64_t pool = argmax ? 2 : 1;
  const int64_t expected[] = {s.batch, s.out_height() / pool, s.out_width() / pool, s.out_channels};
  for (int i = 0; i < 4; ++i)
    if (g.ndim() != 4 || g.shape(i) != expected[i] ||
        (argmax && (argmax->ndim() != 4 || argmax->shape(i) != expected[i])))
      throw std::invalid_argument(
          "output gradient (and argmax) must have the shape of the output: " + std::to_string(expected[0]) + " x " +
          std::to_string(expected[1]) + " x " + std::to_string(expected[2]) + " x " + std::to_string(expected[3]));
}

Array conv_data_gradient(const Array& g, const Array& w, Pair input_size, Pair stride, Pair padding, Pair dilation,
                         int64_t groups, const std::string& kernel, const std::optional<Bytes>& argmax) {
  const ConvShape s = shape_of(g, w, stride, padding, dilation, groups, input_size);
  expect_output_gradient(g, s, argmax);
  Array dx({s.batch, s.in_height, s.in_width, s.in_channels});
  const ConvDataGradient p{s, g.data(), w.data(), krsc(s), dx.mutable_data(), argmax ? argmax->data() : nullptr};
  const Kernel<ConvDataGradient>& chosen = pick(p, kernel);
  py::gil_scoped_release release;
  if (dx.size()) chosen.run(p);
  return dx;
}

// The weight gradient; with `argmax` (weight gradient, bias gradient).
py::object conv_weight_gradient(const Array& x, const Array& g, Pair kernel_size, Pair stride, Pair padding,
                                Pair dilation, int64_t groups, const std::string& kernel,
                                const std::optional<Bytes>& argmax, const std::optional<Norm>& given_norm) {
  if (x.ndim() != 4 || g.ndim() != 4) throw std::invalid_argument("expected maps (N, H, W, C) of 4 dimensions");
  const ConvShape s = make_shape(x.shape(0), x.shape(3), x.shape(1), x.shape(2), g.shape(3), kernel_size, stride,
                                 padding, dilation, groups);
  expect_output_gradient(g, s, argmax);
  Array dw({s.out_channels, s.kernel_height, s.kernel_width, s.in_channels / s.groups}), db({s.out_channels});
  const std::optional<InputNorm> norm = input_norm(given_norm, s.in_channels);
  const ConvWeightGradient p{.shape = s,
                             .input = x.data(),
                             .output_gradient = g.data(),
                             .weight_gradient = dw.mutable_data(),
                             .weight_strides = krsc(s),
                             .argmax = argmax ? argmax->data() : nullptr,
                             .bias_gradient = argmax ? db.mutable_data() : nullptr,
                             .norm = norm ? &*norm : nullptr};
  if (g.size()) {
    const Kernel<ConvWeightGradient>& chosen = pick(p, kernel);
    py::gil_scoped_release release;
    chosen.run(p);
  } else {
    std::fill_n(dw.mutable_data(), dw.size(), 0.0f);
    std::fill_n(db.mutable_data(), db.size(), 0.0f);
  }
  if (argmax) return py::make_tuple(dw, db);
  return std::move(dw);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Kernels of pyconvopt: instruction sets, the kernel table, memory, numpy entries.";
  survive_forks();

  m.def("isa", [] { return isa_name(active_isa()); }, "The instruction set in use.");
  m.def("set_isa", &set_isa, py::arg("name"), "Forces an instruction set; 'auto' takes the best available.");
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const Isa isa : all_isas)
      if (isa != Isa::reference && isa_available(isa)) names.push_back(isa_name(isa));
    return names;
  });
  m.def("winograd", &winograd_enabled);
  m.def("set_winograd", &set_winograd, py::arg("enabled"));
  m.def(
      "kernel_names",
      [] {
        std::vector<std::tuple<std::string, std::string, std::string>> rows;
        for (const KernelName& n : kernel_names()) rows.emplace_back(n.problem, n.kernel, n.isa);
        return rows;
      },
      "(problem, kernel, instruction set) of every kernel, in the table's order.");
  m.def(
      "choose_conv",
      [](const std::string& pass, int64_t batch, int64_t in_channels, int64_t in_height, int64_t in_width,
         int64_t out_channels, Pair kernel_size, Pair stride, Pair padding, Pair dilation, int64_t groups,
         const std::string& kernel) {
        return choose_conv(pass,
                           make_shape(batch, in_channels, in_height, in_width, out_channels, kernel_size, stride,
                                      padding, dilation, groups),
                           kernel);
      },
      py::arg("pass_"), py::arg("batch"), py::arg("in_channels"), py::arg("in_height"), py::arg("in_width"),
      py::arg("out_channels"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("groups"), py::arg("kernel") = "", "(kernel, reason) for one pass of a convolution.");

  m.def("arena_bytes", &arena_bytes);
  m.def("arena_set_cap", &arena_set_cap, py::arg("bytes"));
  m.def("arena_release", &arena_release);
  m.def("arena_cap", &arena_cap);
  m.def("keep_freed_memory", &keep_freed_memory, py::arg("keep"),
        "Whether malloc reuses large blocks instead of returning them at once.");
  m.def("freed_memory_is_kept", &freed_memory_is_kept);
  m.def("map_bytes", &map_bytes, "Bytes the process has got for the maps that operators return, idle or not.");

  m.def("conv_forward", &conv_forward, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("stride"),
        py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("relu"), py::arg("pool"),
        py::arg("kernel") = "", py::arg("norm") = py::none());
  m.def("conv_moments", &conv_moments, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("stride"),
        py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("kernel") = "");
  m.def("conv_data_gradient", &conv_data_gradient, py::arg("gradient"), py::arg("weight"), py::arg("input_size"),
        py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("kernel") = "",
        py::arg("argmax") = py::none());
  m.def("conv_weight_gradient", &conv_weight_gradient, py::arg("x"), py::arg("gradient"), py::arg("kernel_size"),
        py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("kernel") = "",
        py::arg("argmax") = py::none(), py::arg("norm") = py::none());

  define_elementwise(m);
  define_sequence(m);
  define_cuda(m);
}

}  // namespace pyconvopt::binding
