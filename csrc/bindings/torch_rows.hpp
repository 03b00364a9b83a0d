// What the operators over rows × channels share: a map in channels_last, or a contiguous matrix.
#pragma once
#include "norm.hpp"
#include "torch_tensor.hpp"

namespace pyconvopt::binding {

inline void check_rows(const Tensor& t, const char* op, const char* argument) {
  if (t.dim() == 4) return check_map(t, op, argument);
  check_float32_cpu(t, op, argument);
  STD_TORCH_CHECK(t.dim() == 2, op, ": expected ", argument,
                  " of 4 dimensions (N, C, H, W) or 2 (N, C), but got shape ", shape_text(t));
  STD_TORCH_CHECK(t.numel() == 0 || dense_contiguous(t), op, ": expected ", argument,
                  " to be a contiguous matrix, but got shape ", shape_text(t), " with other strides");
}

// Elementwise operators take the elements in the order of memory, which has to be without gaps.
inline void check_dense(const Tensor& t, const char* op, const char* argument) {
  check_float32_cpu(t, op, argument);
  STD_TORCH_CHECK(t.numel() == 0 || dense_contiguous(t) || (t.dim() == 4 && dense_channels_last(t)), op, ": expected ",
                  argument, " to be contiguous or in dense channels_last memory format, but got shape ", shape_text(t),
                  " with other strides");
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != b.size(d)) return false;
  return true;
}

inline void check_same_shape(const Tensor& t, const Tensor& like, const char* op, const char* argument) {
  STD_TORCH_CHECK(same_shape(t, like), op, ": expected ", argument, " of shape ", shape_text(like), ", but got ",
                  shape_text(t));
}

// Of the same shape, and the same order in memory.
inline void check_like(const Tensor& t, const Tensor& like, const char* op, const char* argument) {
  check_dense(t, op, argument);
  check_same_shape(t, like, op, argument);
  for (int64_t d = 0; d < t.dim() && t.numel(); ++d)
    STD_TORCH_CHECK(t.size(d) == 1 || t.stride(d) == like.stride(d), op, ": expected ", argument,
                    " in the same memory format as the tensor it belongs to");
}

inline MapShape map_shape(const Tensor& t) {
  if (t.dim() == 2) return {t.size(0), 1, 1, t.size(1)};
  return {t.size(0), t.size(2), t.size(3), t.size(1)};
}

inline Tensor empty_rows(const Tensor& like) {
  if (like.dim() == 2) return empty_strided({like.size(0), like.size(1)}, {like.size(1), 1});
  return empty_map(like.size(0), like.size(1), like.size(2), like.size(3));
}

inline Tensor empty_pooled(const Tensor& map, ScalarType type = ScalarType::Float) {
  return empty_map(map.size(0), map.size(1), map.size(2) / 2, map.size(3) / 2, type);
}

// Stands for an output that was not asked for.
inline Tensor nothing(ScalarType type = ScalarType::Float) { return empty_strided({0}, {1}, type); }

inline void check_poolable(const Tensor& map, const char* op) {
  STD_TORCH_CHECK(map.dim() == 4 && map.size(2) >= 2 && map.size(3) >= 2, op,
                  ": expected input of at least 2 x 2 pixels, "
                  "but got shape ",
                  shape_text(map));
}

// Of a pooled map, whose gradient this is.
inline void check_argmax(const Tensor& argmax, const Tensor& gradient, const char* op) {
  STD_TORCH_CHECK(argmax.is_cpu() && argmax.scalar_type() == ScalarType::Byte, op,
                  ": expected argmax of dtype uint8 on the CPU");
  check_same_shape(argmax, gradient, op, "argmax");
  STD_TORCH_CHECK(argmax.numel() == 0 || dense_channels_last(argmax), op,
                  ": expected argmax in dense channels_last memory format");
}

// The gradient and the argmax of a 2×2-pooled map.
inline void check_pooled(const Tensor& gradient, const Tensor& argmax, int64_t height, int64_t width, const char* op) {
  check_map(gradient, op, "output_gradient");
  STD_TORCH_CHECK(gradient.size(2) == height / 2 && gradient.size(3) == width / 2, op, ": expected output_gradient of ",
                  height / 2, " x ", width / 2, " pixels, but got shape ", shape_text(gradient));
  check_argmax(argmax, gradient, op);
}

inline Activation activation_of(int64_t index, const char* op) {
  STD_TORCH_CHECK(index >= 0 && index < activation_count, op, ": expected activation 0 to ", activation_count - 1,
                  ", but got ", index);
  return Activation(index);
}

// What batch_norm_again takes, done to an input while it is read.
inline InputNorm norm_of(const char* op, const Tensor& input, const std::optional<Tensor>& weight,
                         const std::optional<Tensor>& bias, const Tensor& mean, const Tensor& invstd,
                         int64_t activation) {
  const int64_t channels = input.size(1);
  if (weight) check_vector(*weight, channels, op, "norm_weight");
  if (bias) check_vector(*bias, channels, op, "norm_bias");
  check_vector(mean, channels, op, "mean");
  check_vector(invstd, channels, op, "invstd");
  return {mean.const_data_ptr<float>(), invstd.const_data_ptr<float>(), data_or_null(weight), data_or_null(bias),
          activation_of(activation, op)};
}

inline void check_probability(double p, const char* op) {
  STD_TORCH_CHECK(p >= 0 && p <= 1, op, ": dropout probability has to be between 0 and 1, but got ", p);
}

// Adam's counts, on the CPU whatever device the parameters are on.
inline void check_steps(const std::vector<Tensor>& steps, std::size_t parameters, const char* op) {
  STD_TORCH_CHECK(steps.size() == parameters, op, ": expected as many steps as parameters, but got ", steps.size(),
                  " and ", parameters);
  for (const Tensor& step : steps) {
    check_float32_cpu(step, op, "steps");
    STD_TORCH_CHECK(step.numel() == 1, op, ": expected steps of one element, but got shape ", shape_text(step));
  }
}

// Of batch norm and what follows it.
// Checks what follows a batch norm and returns the activation.
inline Activation norm_options(const char* op, int64_t activation, bool pool, double dropout, bool residual) {
  check_probability(dropout, op);
  const Activation known = activation_of(activation, op);
  STD_TORCH_CHECK(dropout == 0 || known == Activation::relu || pool, op,
                  ": dropout is fused behind relu or pool only; use torch.ops.pyconvopt.dropout without them");
  STD_TORCH_CHECK(!(residual && pool), op, ": a residual together with pool is not supported");
  STD_TORCH_CHECK(known <= Activation::relu || !(residual || pool), op,
                  ": residual and pool go with relu or no activation");
  return known;
}

}  // namespace pyconvopt::binding
