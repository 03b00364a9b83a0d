// Loading the plug-in. The driver is asked first whether it and the GPU are new enough for it: a kernel that was
// launched regardless would fail with an error that names no remedy.
#include "cuda_library.hpp"

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <mutex>
#include <optional>
#include <stdexcept>

namespace pyconvopt::binding {
namespace {

const char* const instead = "; or let torch's kernels take over: pyconvopt.settings(cuda_fallback=True)";

[[noreturn]] void refuse(const std::string& problem) { throw std::runtime_error(problem + instead); }

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}
std::string capability_text(int capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

std::filesystem::path beside_this_module(const char* name) {
  Dl_info info{};
  dladdr(reinterpret_cast<const void*>(&cuda_problem), &info);
  return std::filesystem::absolute(info.dli_fname).parent_path() / name;
}

template <class Function>
void find(void* library, const char* library_name, const char* name, Function& to) {
  to = reinterpret_cast<Function>(dlsym(library, name));
  if (!to) refuse(std::string(library_name) + " has no entry " + name + ": it is of another version, build it again");
}

CudaLibrary load() {
  const std::filesystem::path path = beside_this_module("libpyconvopt_cuda.so");
  const std::string build = "`make cuda` builds it, and so does `pip install . -C cmake.define.PYCONVOPT_CUDA=ON`";
  if (!std::filesystem::exists(path))
    refuse("CUDA tensors need the plug-in libpyconvopt_cuda.so, which is not in " + path.parent_path().string() + ": " +
           build);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) refuse("the CUDA plug-in cannot be loaded (" + std::string(dlerror()) + "): " + build);
  CudaLibrary found;
#define PYCONVOPT_CUDA_FIND(name) find(library, "libpyconvopt_cuda.so", "pyconvopt_cuda_" #name, found.name);
  PYCONVOPT_CUDA_FIND(version)
  if (found.version() != PYCONVOPT_CUDA_VERSION)
    refuse("libpyconvopt_cuda.so has interface version " + std::to_string(found.version()) + ", expected " +
           std::to_string(PYCONVOPT_CUDA_VERSION) + ": " + build);
  PYCONVOPT_CUDA_ENTRIES(PYCONVOPT_CUDA_FIND)
#undef PYCONVOPT_CUDA_FIND
  return found;
}

// Compute capability of a GPU, after the driver was found new enough.
int capability(int device, int runtime) {
  const char* name = "libcuda.so.1";
  void* driver = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!driver)
    refuse("no NVIDIA driver (" + std::string(dlerror()) + "): install one for CUDA " + version_text(runtime));
  int (*initialize)(unsigned), (*driver_version)(int*), (*get_device)(int*, int), (*attribute)(int*, int, int);
  find(driver, name, "cuInit", initialize);
  find(driver, name, "cuDriverGetVersion", driver_version);
  find(driver, name, "cuDeviceGet", get_device);
  find(driver, name, "cuDeviceGetAttribute", attribute);
  const auto check = [](int code, const char* call) {
    if (code)
      refuse("the NVIDIA driver reports error " + std::to_string(code) + " from " + call +
             ": see whether nvidia-smi runs");
  };
  int version = 0;
  check(driver_version(&version), "cuDriverGetVersion");
  if (version / 1000 < runtime / 1000)
    refuse("the NVIDIA driver is for CUDA " + version_text(version) + ", the plug-in needs one for CUDA " +
           version_text(runtime) + ": update the driver, or build the plug-in with an older nvcc");
  check(initialize(0), "cuInit");
  constexpr int major_attribute = 75, minor_attribute = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
  int handle = 0, major = 0, minor = 0;
  check(get_device(&handle, device), "cuDeviceGet");
  check(attribute(&major, major_attribute, handle), "cuDeviceGetAttribute");
  check(attribute(&minor, minor_attribute, handle), "cuDeviceGetAttribute");
  return 10 * major + minor;
}

}  // namespace

const CudaLibrary& cuda_library(int device) {
  static std::optional<CudaLibrary> library;
  static std::array<std::atomic<bool>, 64> usable{};
  if (device < 0 || device >= int(usable.size())) refuse("CUDA device " + std::to_string(device) + " is out of range");
  if (usable[device].load(std::memory_order_acquire)) return *library;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!library) library = load();
  const int oldest = library->oldest_capability(), own = capability(device, library->runtime());
  if (own < oldest)
    refuse("CUDA device " + std::to_string(device) + " has compute capability " + capability_text(own) +
           ", the plug-in was built for " + capability_text(oldest) +
           " and later: build it with CUDAARCHS=" + std::to_string(own));
  usable[device].store(true, std::memory_order_release);
  return *library;
}

static std::atomic<int32_t> math{PYCONVOPT_MATH_FLOAT32};
int32_t cuda_math() { return math; }
void set_cuda_math(int32_t to) { math = to; }

std::string cuda_problem(int device) {
  try {
    cuda_library(device);
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace pyconvopt::binding
