// pyconvopt._C.ConvSequence: convolutions one after another, on numpy arrays (N, H, W, C).
#include "conv_sequence.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "pymodule.hpp"

namespace py = pybind11;

namespace pyconvopt::binding {
namespace {

using Map = py::array_t<float, py::array::c_style>;
using Weight = py::array_t<float, 0>;  // (K, C / groups, R, S), any strides

// A sequence, and the arrays that it reads.
struct Held {
  ConvSequence sequence;
  std::vector<py::object> arrays;
};

int64_t add(Held& held, int64_t input, int64_t residual, const Weight& weight, const std::optional<Map>& bias,
            Pair stride, Pair padding, Pair dilation, int64_t groups, int64_t activation, bool pool, bool flat) {
  if (weight.ndim() != 4) throw std::invalid_argument("weight must have 4 dimensions");
  if (weight.size() > largest_weight)
    throw std::invalid_argument("weight must have at most " + std::to_string(largest_weight) + " elements");
  if (activation < 0 || activation >= activation_count)
    throw std::invalid_argument("there is no activation " + std::to_string(activation));
  const MapSize x = flat ? held.sequence.size(input).flat() : held.sequence.size(input);
  if (x.channels != weight.shape(1) * groups)
    throw std::invalid_argument("the input has " + std::to_string(x.channels) + " channels, the weight is for " +
                                std::to_string(weight.shape(1) * groups));
  const ConvShape s = make_shape(x.batch, x.channels, x.height, x.width, weight.shape(0),
                                 {weight.shape(2), weight.shape(3)}, stride, padding, dilation, groups);
  if (bias && (bias->ndim() != 1 || bias->size() != s.out_channels))
    throw std::invalid_argument("bias must have one element an output channel");
  constexpr int64_t size = sizeof(float);
  for (int i = 0; i < 4; ++i)
    if (weight.strides(i) % size) throw std::invalid_argument("the strides of weight must be whole floats");
  ConvForward p{.shape = s,
                .input = nullptr,
                .weight = weight.data(),
                .weight_strides = {weight.strides(0) / size, weight.strides(1) / size, weight.strides(2) / size,
                                   weight.strides(3) / size},
                .bias = bias ? bias->data() : nullptr,
                .activation = Activation(activation),
                .pool = pool};
  const int64_t value = held.sequence.add(p, input, residual);
  held.arrays.push_back(weight);
  if (bias) held.arrays.push_back(*bias);
  return value;
}

void expect(const Map& map, const MapSize& s, const char* what) {
  const int64_t wanted[] = {s.batch, s.height, s.width, s.channels};
  for (int i = 0; i < 4; ++i)
    if (map.ndim() != 4 || map.shape(i) != wanted[i])
      throw std::invalid_argument(std::string(what) + " must be a map of " + std::to_string(wanted[0]) + " x " +
                                  std::to_string(wanted[1]) + " x " + std::to_string(wanted[2]) + " x " +
                                  std::to_string(wanted[3]));
}

void expect_counts(const ConvSequence& sequence, std::size_t inputs, std::size_t results) {
  if (int64_t(inputs) != sequence.inputs() || results != sequence.results().size())
    throw std::invalid_argument("the sequence has " + std::to_string(sequence.inputs()) + " inputs and " +
                                std::to_string(sequence.results().size()) + " results");
}

void run(const Held& held, const std::vector<Map>& inputs, std::vector<Map>& results) {
  const ConvSequence& sequence = held.sequence;
  expect_counts(sequence, inputs.size(), results.size());
  std::vector<const float*> from;
  std::vector<float*> to;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    expect(inputs[i], sequence.size(int64_t(i)), "an input");
    from.push_back(inputs[i].data());
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    expect(results[i], sequence.size(sequence.results()[i]), "a result");
    to.push_back(results[i].mutable_data());
  }
  py::gil_scoped_release release;
  sequence.run(from, to);
}

// Addresses of dense float32 maps (N, H, W, C) of the sizes known: nothing is asked about them. A tensor's array would
// take as long as a small convolution when the model's weights have driven the code for it out of the caches.
void run_at(const Held& held, const std::vector<std::uintptr_t>& inputs, const std::vector<std::uintptr_t>& results) {
  const ConvSequence& sequence = held.sequence;
  expect_counts(sequence, inputs.size(), results.size());
  std::vector<const float*> from;
  std::vector<float*> to;
  for (const std::uintptr_t address : inputs) from.push_back(reinterpret_cast<const float*>(address));
  for (const std::uintptr_t address : results) to.push_back(reinterpret_cast<float*>(address));
  py::gil_scoped_release release;
  sequence.run(from, to);
}

}  // namespace

void define_sequence(py::module_& m) {
  py::class_<PreparedWeights, std::shared_ptr<PreparedWeights>>(m, "PreparedWeights")
      .def(py::init<>())
      .def("floats", &PreparedWeights::floats);
  py::class_<Held>(m, "ConvSequence")
      .def(py::init([](const std::shared_ptr<PreparedWeights>& weights) { return Held{ConvSequence(weights), {}}; }),
           py::arg("weights").none(false))
      .def(
          "add_input",
          [](Held& held, int64_t batch, int64_t channels, int64_t height, int64_t width) {
            if (batch < 0 || channels < 0 || height < 0 || width < 0)
              throw std::invalid_argument("sizes must not be negative");
            return held.sequence.add_input({batch, channels, height, width});
          },
          py::arg("batch"), py::arg("channels"), py::arg("height"), py::arg("width"))
      .def("add", &add, py::arg("input"), py::arg("residual"), py::arg("weight").noconvert(),
           py::arg("bias").noconvert(), py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"),
           py::arg("activation"), py::arg("pool"), py::arg("flat") = false)
      .def(
          "finish", [](Held& held, const std::vector<int64_t>& results) { held.sequence.finish(results); },
          py::arg("results"))
      .def(
          "size",
          [](const Held& held, int64_t value) {
            const MapSize& s = held.sequence.size(value);
            return std::tuple(s.batch, s.channels, s.height, s.width);
          },
          py::arg("value"))
      .def("run", &run, py::arg("inputs").noconvert(), py::arg("results").noconvert())
      .def("run_at", &run_at, py::arg("inputs"), py::arg("results"));
}

}  // namespace pyconvopt::binding
