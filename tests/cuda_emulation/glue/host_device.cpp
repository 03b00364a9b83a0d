// Lets the operators for CUDA tensors (csrc/bindings/torch_cuda_*.cpp) run on tensors of the CPU, whose memory
// is what the emulated kernels work on: what torch would answer of a GPU is answered here, and noted.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include "cuda_library.hpp"

static int device_now = 7, guards = 0;

extern "C" {

int32_t aoti_torch_device_type_cuda() { return aoti_torch_device_type_cpu(); }

AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* to) {
  *to = 0;
  return 0;
}

AOTITorchError aoti_torch_create_device_guard(int32_t index, DeviceGuardHandle* to) {
  *to = reinterpret_cast<DeviceGuardHandle>(intptr_t(device_now + 1));  // what to go back to
  device_now = index;
  ++guards;
  return 0;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle guard) {
  device_now = int(reinterpret_cast<intptr_t>(guard)) - 1;
  return 0;
}

__attribute__((visibility("default"))) int current_device() { return device_now; }
__attribute__((visibility("default"))) void set_math(int math) { pyconvopt::binding::set_cuda_math(math); }
__attribute__((visibility("default"))) int guards_made() { return guards; }
}
