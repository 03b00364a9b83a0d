// pyconvopt._C: whether the CUDA plug-in can be used.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda_library.hpp"

namespace py = pybind11;

namespace pyconvopt::binding {

void define_cuda(py::module_& m) {
  m.def("cuda_problem", &cuda_problem, py::arg("device"),
        "Why CUDA tensors of this device cannot run on the plug-in, and the remedy; empty if they can.");
  m.attr("CUDA_MATH") = std::map<std::string, int>{
      {"float32", PYCONVOPT_MATH_FLOAT32}, {"tf32", PYCONVOPT_MATH_TF32}, {"bfloat16", PYCONVOPT_MATH_BFLOAT16}};
  m.def("cuda_math", &cuda_math, "What dense convolutions of CUDA tensors are computed in, a value of CUDA_MATH.");
  m.def("set_cuda_math", &set_cuda_math, py::arg("math"));
}

}  // namespace pyconvopt::binding
