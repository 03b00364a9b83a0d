// pyconvopt._C: the random numbers of dropout, for tests and for whoever wants the same mask elsewhere,
// and cross-entropy on numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cross_entropy.hpp"
#include "dispatch.hpp"
#include "dropout.hpp"

namespace py = pybind11;

namespace pyconvopt::binding {
namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Labels = py::array_t<int64_t, py::array::c_style>;

// (mean loss, its gradient).
std::pair<float, Array> cross_entropy(const Array& logits, const Labels& target, const std::optional<Array>& weight,
                                      int64_t ignore_index, double label_smoothing) {
  if (logits.ndim() != 2 || target.ndim() != 1 || target.shape(0) != logits.shape(0))
    throw std::invalid_argument("expected logits (N, C) and a target (N) of int64, got " +
                                std::to_string(logits.ndim()) + " and " + std::to_string(target.ndim()) +
                                " dimensions, " + std::to_string(logits.size()) + " logits and " +
                                std::to_string(target.size()) + " targets");
  const int64_t rows = logits.shape(0), classes = logits.shape(1);
  if (weight && weight->size() != classes)
    throw std::invalid_argument("expected a weight for each of " + std::to_string(classes) + " classes, got " +
                                std::to_string(weight->size()));
  if (!(label_smoothing >= 0 && label_smoothing <= 1))
    throw std::invalid_argument("label_smoothing must lie in 0 to 1, got " + std::to_string(label_smoothing));
  CrossEntropy problem{rows,         classes,        logits.data(), target.data(), weight ? weight->data() : nullptr,
                       ignore_index, label_smoothing};
  const int64_t wrong = problem.first_out_of_range();
  if (wrong >= 0)
    throw std::out_of_range("target " + std::to_string(problem.target[wrong]) + " of row " + std::to_string(wrong) +
                            " is no class in 0 to " + std::to_string(classes - 1));
  Array gradient({rows, classes});
  float loss;
  problem.loss = &loss, problem.gradient = gradient.mutable_data();
  {
    py::gil_scoped_release release;
    run(problem);
  }
  return {loss, gradient};
}

}  // namespace

void define_elementwise(py::module_& m) {
  m.def(
      "philox4x32",
      [](uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
        const PhiloxBlock block = philox4x32({{c0, c1, c2, c3}}, k0, k1);
        return py::make_tuple(block.word[0], block.word[1], block.word[2], block.word[3]);
      },
      "One block of Philox4x32-10: four counter words and two key words to four random words.");
  m.def(
      "dropout_multiplier",
      [](double p, uint64_t seed, uint64_t offset, uint64_t element) {
        return dropout_multiplier({p, seed, offset}, element);
      },
      py::arg("p"), py::arg("seed"), py::arg("offset"), py::arg("element"),
      "What dropout multiplies one element by: 0 or 1 / (1 - p).");
  m.def("cross_entropy", &cross_entropy, py::arg("logits"), py::arg("target"), py::arg("weight") = py::none(),
        py::arg("ignore_index") = -100, py::arg("label_smoothing") = 0.0,
        "The mean cross-entropy of softmax(logits), and its gradient.");
}

}  // namespace pyconvopt::binding
