// What the operators share: checks of tensors with torch's kind of messages, and output allocation.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pyconvopt::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Sizes = std::vector<int64_t>;

inline Sizes sizes_of(const Tensor& t) {
  Sizes sizes;
  for (int64_t i = 0; i < t.dim(); ++i) sizes.push_back(t.size(i));
  return sizes;
}

inline std::string shape_text(const Sizes& sizes) {
  std::string text = "[";
  for (std::size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}
inline std::string shape_text(const Tensor& t) { return shape_text(sizes_of(t)); }

inline void check_float32_cpu(const Tensor& t, const char* op, const char* argument) {
  STD_TORCH_CHECK(t.is_cpu(), op, ": expected ", argument, " on the CPU, but got a tensor on another device");
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, op, ": expected ", argument,
                  " of dtype float32, but got scalar type ", int(t.scalar_type()));
}

inline bool dense_contiguous(const Tensor& t) {
  int64_t expected = 1;
  for (int64_t d = t.dim() - 1; d >= 0; --d) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

inline bool dense_channels_last(const Tensor& t) {
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// A 4-D float32 tensor, channels last without gaps (or empty).
inline void check_map(const Tensor& t, const char* op, const char* argument) {
  check_float32_cpu(t, op, argument);
  STD_TORCH_CHECK(t.dim() == 4, op, ": expected ", argument, " of 4 dimensions (N, C, H, W), but got shape ",
                  shape_text(t));
  STD_TORCH_CHECK(t.numel() == 0 || dense_channels_last(t), op, ": expected ", argument,
                  " in dense channels_last memory format, but got shape ", shape_text(t), " with other strides");
}

// A float32 vector of `size` elements without gaps.
inline void check_vector(const Tensor& t, int64_t size, const char* op, const char* argument) {
  check_float32_cpu(t, op, argument);
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == size && (size <= 1 || t.stride(0) == 1), op, ": expected ", argument,
                  " to be a contiguous vector of ", size, " elements, but got shape ", shape_text(t));
}

// As the functions that make tensors take it, of the types that operators return.
inline int32_t dtype_of(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return aoti_torch_dtype_uint8();
    case ScalarType::Double: return aoti_torch_dtype_float64();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    default: return aoti_torch_dtype_float32();
  }
}

// Bytes of a tensor without gaps: an error where they, or its strides, are more than 63 bits count.
inline int64_t bytes_of(const Sizes& sizes, int32_t dtype) {
  int64_t bytes = int64_t(aoti_torch_dtype_element_size(dtype));
  bool empty = false, fits = true;
  for (const int64_t size : sizes) {
    STD_TORCH_CHECK(size >= 0, "there is no tensor of shape ", shape_text(sizes), ": a size is negative");
    empty |= size == 0;
    fits &= !__builtin_mul_overflow(bytes, size ? size : 1, &bytes);
  }
  STD_TORCH_CHECK(fits, "out of memory: a tensor of shape ", shape_text(sizes), " has more bytes than 63 bits count");
  return empty ? 0 : bytes;
}

inline void check_allocated(AOTITorchError error, const Sizes& sizes, int32_t dtype) {
  STD_TORCH_CHECK(error == TORCH_SUCCESS, "out of memory: cannot allocate ", bytes_of(sizes, dtype),
                  " bytes for a tensor of shape ", shape_text(sizes));
}

inline Tensor empty_strided(const Sizes& sizes, const Sizes& strides, int32_t dtype) {
  AtenTensorHandle handle;
  check_allocated(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                           aoti_torch_device_type_cpu(), 0, &handle),
                  sizes, dtype);
  return Tensor(handle);
}
inline Tensor empty_strided(const Sizes& sizes, const Sizes& strides, ScalarType type = ScalarType::Float) {
  return empty_strided(sizes, strides, dtype_of(type));
}

// Of the same shape and strides as a tensor without gaps.
inline Tensor empty_as(const Tensor& dense) {
  Sizes strides;
  for (int64_t i = 0; i < dense.dim(); ++i) strides.push_back(dense.stride(i));
  return empty_strided(sizes_of(dense), strides);
}

Tensor empty_map(int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type = ScalarType::Float);

inline Tensor empty_vector(int64_t n) { return empty_strided({n}, {1}); }

inline const float* data_or_null(const std::optional<Tensor>& t) { return t ? t->const_data_ptr<float>() : nullptr; }

}  // namespace pyconvopt::binding
