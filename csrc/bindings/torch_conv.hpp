// What the convolution operators share on every device: the geometry, its checks, the order of a weight in memory.
#pragma once
#include "conv.hpp"
#include "torch_tensor.hpp"

namespace pyconvopt::binding {

inline WeightStrides strides_of(const Tensor& weight) {
  return {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
}

inline void check_weight_dimensions(const char* op, const Tensor& weight) {
  STD_TORCH_CHECK(weight.dim() == 4, op, ": expected weight of 4 dimensions, but got shape ", shape_text(weight));
}

// The arguments every pass shares.
struct Hyper {
  int64_t stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width, groups;
};

inline ConvShape shape_of(const char* op, int64_t batch, int64_t channels, int64_t height, int64_t width,
                          const Tensor& weight, const Hyper& h) {
  check_weight_dimensions(op, weight);
  STD_TORCH_CHECK(h.stride_height > 0 && h.stride_width > 0, op, ": non-positive stride is not supported");
  STD_TORCH_CHECK(h.padding_height >= 0 && h.padding_width >= 0, op, ": negative padding is not supported");
  STD_TORCH_CHECK(h.dilation_height > 0 && h.dilation_width > 0, op, ": dilation should be greater than zero");
  for (const int64_t value : {h.stride_height, h.stride_width, h.padding_height, h.padding_width, h.dilation_height,
                              h.dilation_width, weight.size(2), weight.size(3), h.groups})
    STD_TORCH_CHECK(value <= largest_hyper, op,
                    ": expected stride, padding, dilation, kernel size and groups of at most ", largest_hyper,
                    ", but got ", value);
  STD_TORCH_CHECK(height <= largest_size && width <= largest_size, op, ": expected maps of at most ", largest_size,
                  " rows and columns, but got ", height, " x ", width);
  STD_TORCH_CHECK(weight.size(2) > 0 && weight.size(3) > 0, op, ": kernel size should be greater than zero, but got ",
                  weight.size(2), " x ", weight.size(3));
  STD_TORCH_CHECK(weight.numel() <= largest_weight, op, ": expected weight of at most ", largest_weight,
                  " elements, but got shape ", shape_text(weight));
  STD_TORCH_CHECK(h.groups > 0 && weight.size(0) % h.groups == 0, op, ": expected groups to divide the ",
                  weight.size(0), " output channels, but got groups=", h.groups);
  STD_TORCH_CHECK(weight.size(1) * h.groups == channels, op, ": given groups=", h.groups, ", weight of size ",
                  shape_text(weight), ", expected input to have ", weight.size(1) * h.groups, " channels, but got ",
                  channels, " channels instead");
  const ConvShape s{batch,           channels,          height,           width,          weight.size(0),
                    weight.size(2),  weight.size(3),    h.stride_height,  h.stride_width, h.padding_height,
                    h.padding_width, h.dilation_height, h.dilation_width, h.groups};
  const int64_t reach_height = h.dilation_height * (weight.size(2) - 1) + 1;
  const int64_t reach_width = h.dilation_width * (weight.size(3) - 1) + 1;
  STD_TORCH_CHECK(height + 2 * h.padding_height >= reach_height && width + 2 * h.padding_width >= reach_width, op,
                  ": calculated padded input size per channel: (", height + 2 * h.padding_height, " x ",
                  width + 2 * h.padding_width, "). Kernel size: (", reach_height, " x ", reach_width,
                  "). Kernel size can't be greater than actual input size");
  return s;
}

inline void check_output_gradient(const char* op, const Tensor& output_gradient, const ConvShape& s) {
  STD_TORCH_CHECK(output_gradient.size(0) == s.batch && output_gradient.size(1) == s.out_channels &&
                      output_gradient.size(2) == s.out_height() && output_gradient.size(3) == s.out_width(),
                  op, ": expected output_gradient of shape [", s.batch, ", ", s.out_channels, ", ", s.out_height(),
                  ", ", s.out_width(), "], but got ", shape_text(output_gradient));
}

// The weight's own strides where it is dense, so that autograd keeps the gradient instead of copying it.
inline std::vector<int64_t> gradient_strides(const Tensor& weight) {
  if (dense_contiguous(weight) || dense_channels_last(weight))
    return {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
  const int64_t c = weight.size(1), r = weight.size(2), q = weight.size(3);
  return {c * r * q, r * q, q, 1};
}

}  // namespace pyconvopt::binding
