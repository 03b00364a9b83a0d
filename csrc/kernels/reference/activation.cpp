// ReLU and sums over rows, plainly.
#include "../activation.hpp"

#include <vector>

#include "reference.hpp"

namespace pyconvopt {
namespace {

void sum_rows(const float* from, int64_t rows, int64_t channels, float* sum) {
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0;
    for (int64_t row = 0; row < rows; ++row) total += from[row * channels + c];
    sum[c] = float(total);
  }
}

void forward(const ReluForward& p) {
  for (int64_t i = 0; i < p.size; ++i) p.output[i] = p.input[i] < 0 ? 0.0f : p.input[i];
}

void backward(const ReluBackward& p) {
  for (int64_t i = 0; i < p.rows * p.channels; ++i)
    p.input_gradient[i] = p.output[i] <= 0 ? 0.0f : p.output_gradient[i];
  if (p.channel_sum) sum_rows(p.input_gradient, p.rows, p.channels, p.channel_sum);
}

void channel_sum(const ChannelSum& p) { sum_rows(p.input, p.rows, p.channels, p.sum); }

}  // namespace

extern const Kernel<ReluForward> reference_relu_forward;
const Kernel<ReluForward> reference_relu_forward{"reference", reference::last_resort, reference::takes_all, forward};
extern const Kernel<ReluBackward> reference_relu_backward;
const Kernel<ReluBackward> reference_relu_backward{"reference", reference::last_resort, reference::takes_all, backward};
extern const Kernel<ChannelSum> reference_channel_sum;
const Kernel<ChannelSum> reference_channel_sum{"reference", reference::last_resort, reference::takes_all, channel_sum};

}  // namespace pyconvopt
