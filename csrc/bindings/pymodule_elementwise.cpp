// pyconvopt._C: the random numbers of dropout, for tests and for whoever wants the same mask elsewhere.
#include <pybind11/pybind11.h>

#include "dropout.hpp"

namespace py = pybind11;

namespace pyconvopt::binding {

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
}

}  // namespace pyconvopt::binding
