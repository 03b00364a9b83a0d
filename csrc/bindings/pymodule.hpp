// What the files of pyconvopt._C share.
#pragma once
#include <cstdint>
#include <utility>

#include "conv.hpp"

namespace pyconvopt::binding {

using Pair = std::pair<int64_t, int64_t>;

// std::invalid_argument where the numbers make no convolution.
ConvShape make_shape(int64_t batch, int64_t in_channels, int64_t in_height, int64_t in_width, int64_t out_channels,
                     Pair kernel, Pair stride, Pair padding, Pair dilation, int64_t groups);

}  // namespace pyconvopt::binding
