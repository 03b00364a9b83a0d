// pyconvopt._C: whether the CUDA plug-in can be used.
#include <pybind11/pybind11.h>

#include "cuda_library.hpp"

namespace py = pybind11;

namespace pyconvopt::binding {

void define_cuda(py::module_& m) {
  m.def("cuda_problem", &cuda_problem, py::arg("device"),
        "Why CUDA tensors of this device cannot run on the plug-in, and the remedy; empty if they can.");
}

}  // namespace pyconvopt::binding
