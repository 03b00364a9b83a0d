// The loader alone, for Python without torch.
#include "cuda_library.hpp"

extern "C" __attribute__((visibility("default"))) const char* problem(int device) {
  static std::string text;
  text = pyconvopt::binding::cuda_problem(device);
  return text.c_str();
}
