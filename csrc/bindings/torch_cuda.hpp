// What the operators on CUDA tensors share: checks, the memory order of maps, outputs from torch's caching
// allocator, and the launch on torch's current stream. Nothing here waits for the GPU or allocates by itself,
// so that a step may be captured in a CUDA graph.
#pragma once
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda_library.hpp"
#include "torch_rows.hpp"

namespace pyconvopt::binding {

inline void check_on_cuda(const Tensor& t, const Tensor& like, const char* op, const char* argument) {
  STD_TORCH_CHECK(t.is_cuda() && t.get_device_index() == like.get_device_index(), op, ": expected ", argument,
                  " on CUDA device ", like.get_device_index(), " like the other tensors, but got one elsewhere");
}

inline int32_t cuda_type(const Tensor& t, const char* op, const char* argument) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return PYCONVOPT_FLOAT32;
    case ScalarType::Half: return PYCONVOPT_FLOAT16;
    case ScalarType::BFloat16: return PYCONVOPT_BFLOAT16;
    default:
      STD_TORCH_CHECK(false, op, ": expected ", argument,
                      " of dtype float32, float16 or bfloat16, but got scalar type ", int(t.scalar_type()));
  }
}

// torch's rule for a 4-D tensor that is dense in both orders (one channel, or one pixel): by its strides.
inline bool in_channels_last(const Tensor& t) {
  return dense_channels_last(t) && (!dense_contiguous(t) || t.stride(3) >= t.stride(1) * t.size(1));
}

// A map without gaps in either memory format, or a contiguous matrix (N, C).
inline PyconvoptMap cuda_map(const Tensor& t, const char* op, const char* argument) {
  const int32_t type = cuda_type(t, op, argument);
  STD_TORCH_CHECK(t.is_cuda(), op, ": expected ", argument, " on a CUDA device");
  STD_TORCH_CHECK(t.dim() == 4 || t.dim() == 2, op, ": expected ", argument,
                  " of 4 dimensions (N, C, H, W) or 2 (N, C), but got shape ", shape_text(t));
  STD_TORCH_CHECK(t.numel() == 0 || dense_contiguous(t) || (t.dim() == 4 && dense_channels_last(t)), op, ": expected ",
                  argument, " to be contiguous or in dense channels_last memory format, but got shape ", shape_text(t),
                  " with other strides");
  if (t.dim() == 2) return {t.size(0), t.size(1), 1, 1, PYCONVOPT_NHWC, type};
  return {t.size(0), t.size(1), t.size(2), t.size(3), in_channels_last(t) ? PYCONVOPT_NHWC : PYCONVOPT_NCHW, type};
}

inline void check_4d(const Tensor& t, const char* op, const char* argument) {
  STD_TORCH_CHECK(t.dim() == 4, op, ": expected ", argument, " of 4 dimensions (N, C, H, W), but got shape ",
                  shape_text(t));
}

inline void check_same_order(const Tensor& t, const Tensor& like, const char* op, const char* argument) {
  check_same_shape(t, like, op, argument);
  for (int64_t d = 0; d < t.dim() && t.numel(); ++d)
    STD_TORCH_CHECK(t.size(d) == 1 || t.stride(d) == like.stride(d), op, ": expected ", argument,
                    " in the same memory format as the tensor it belongs to");
}

// Of the same GPU, type, shape and order in memory.
inline void check_like_on_cuda(const Tensor& t, const Tensor& like, const char* op, const char* argument) {
  check_on_cuda(t, like, op, argument);
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), op, ": expected ", argument, " of scalar type ",
                  int(like.scalar_type()), ", but got ", int(t.scalar_type()));
  check_same_order(t, like, op, argument);
}

inline void check_float32_on_cuda(const Tensor& t, const Tensor& like, const char* op, const char* argument) {
  check_on_cuda(t, like, op, argument);
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, op, ": expected ", argument,
                  " of dtype float32, but got scalar type ", int(t.scalar_type()));
}

// A float32 vector without gaps, on the GPU of `like`.
inline void check_cuda_vector(const Tensor& t, int64_t size, const Tensor& like, const char* op, const char* argument) {
  check_float32_on_cuda(t, like, op, argument);
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == size && (size <= 1 || t.stride(0) == 1), op, ": expected ", argument,
                  " to be a contiguous vector of ", size, " elements, but got shape ", shape_text(t));
}
inline void check_cuda_vector(const std::optional<Tensor>& t, int64_t size, const Tensor& like, const char* op,
                              const char* argument) {
  if (t) check_cuda_vector(*t, size, like, op, argument);
}

// --- outputs -----------------------------------------------------------------------------------------

inline Tensor empty_on_cuda(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType type,
                            const Tensor& like) {
  const int32_t dtype = dtype_of(type);
  AtenTensorHandle handle;
  check_allocated(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                           aoti_torch_device_type_cuda(), like.get_device_index(), &handle),
                  sizes, dtype);
  return Tensor(handle);
}

inline Tensor empty_cuda_map(int64_t n, int64_t c, int64_t h, int64_t w, int32_t layout, ScalarType type,
                             const Tensor& like) {
  bytes_of({n, c, h, w}, dtype_of(type));  // strides that overflow look like those of a small map
  if (layout == PYCONVOPT_NHWC) return empty_on_cuda({n, c, h, w}, {h * w * c, 1, w * c, c}, type, like);
  return empty_on_cuda({n, c, h, w}, {c * h * w, h * w, w, 1}, type, like);
}

// Of the shape, type and order of a tensor that `cuda_map` took.
inline Tensor empty_like_on_cuda(const Tensor& like, const PyconvoptMap& map) {
  if (like.dim() == 2) return empty_on_cuda({map.batch, map.channels}, {map.channels, 1}, like.scalar_type(), like);
  return empty_cuda_map(map.batch, map.channels, map.height, map.width, map.layout, like.scalar_type(), like);
}

inline Tensor empty_cuda_vector(int64_t n, const Tensor& like) {
  return empty_on_cuda({n}, {1}, ScalarType::Float, like);
}
inline Tensor nothing_on_cuda(ScalarType type, const Tensor& like) { return empty_on_cuda({0}, {1}, type, like); }
inline Tensor workspace_on_cuda(int64_t bytes, const Tensor& like) {
  return empty_on_cuda({bytes}, {1}, ScalarType::Byte, like);
}

inline const void* untyped_or_null(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

// --- launching ---------------------------------------------------------------------------------------

// torch's CUDA half is not linked: a build of torch for CPUs has none.
inline void* current_cuda_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(get, "this torch has no CUDA streams: install torch built for CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device, &stream));
  return stream;
}

// Makes the tensor's GPU the current one for as long as the object lives, and launches on it.
class OnCuda {
 public:
  OnCuda(const Tensor& t, const char* op)
      : op_(op),
        device_(t.get_device_index()),
        library_(cuda_library(device_)),
        guard_(device_),
        stream_(current_cuda_stream(device_)) {}

  const CudaLibrary& library() const { return library_; }

  template <class Problem>
  void launch(int (*entry)(const Problem*, void*), const Problem& problem) const {
    const int code = entry(&problem, stream_);
    STD_TORCH_CHECK(code == 0, op_, ": ", library_.error(code));
  }

 private:
  const char* op_;
  int32_t device_;
  const CudaLibrary& library_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_;
};

}  // namespace pyconvopt::binding
