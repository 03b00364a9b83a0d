// 2×2 max-pooling with stride 2 and the gradient of average pooling, plainly.
#include "../pool.hpp"

#include <cmath>
#include <vector>

#include "reference.hpp"

namespace pyconvopt {
namespace {

// visit(index of the pooled element, index of the window's first element) for every window.
template <class Visit>
void for_each_window(const MapShape& s, Visit visit) {
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t y = 0; y < s.height / 2; ++y)
      for (int64_t x = 0; x < s.width / 2; ++x)
        for (int64_t c = 0; c < s.channels; ++c)
          visit(((n * (s.height / 2) + y) * (s.width / 2) + x) * s.channels + c,
                ((n * s.height + 2 * y) * s.width + 2 * x) * s.channels + c);
}

void forward(const MaxPoolForward& p) {
  for_each_window(p.shape, [&](int64_t pooled, int64_t window) {
    float best = -INFINITY;
    uint8_t position = 0;
    for (uint8_t i = 0; i < 4; ++i) {
      const float value = p.input[window + (i / 2 * p.shape.width + i % 2) * p.shape.channels];
      if (value > best || std::isnan(value)) best = value, position = i;
    }
    p.output[pooled] = best;
    p.argmax[pooled] = position;
  });
}

void backward(const MaxPoolBackward& p) {
  for (int64_t i = 0; i < p.shape.rows() * p.shape.channels; ++i) p.input_gradient[i] = 0;
  std::vector<double> sums(std::size_t(p.shape.channels), 0.0);
  for_each_window(p.shape, [&](int64_t pooled, int64_t window) {
    const int i = p.argmax[pooled];
    if (i >= pool_dead) return;
    p.input_gradient[window + (i / 2 * p.shape.width + i % 2) * p.shape.channels] = p.output_gradient[pooled];
    sums[std::size_t(pooled % p.shape.channels)] += p.output_gradient[pooled];
  });
  if (p.channel_sum)
    for (int64_t c = 0; c < p.shape.channels; ++c) p.channel_sum[c] = float(sums[std::size_t(c)]);
}

// Window by window, each spread over its pixels: the other way round than the fast kernel.
void average_backward(const AveragePoolBackward& p) {
  const PoolAxis &rows = p.rows, &columns = p.columns;
  std::vector<double> sums(std::size_t(p.batch * rows.size * columns.size * p.channels), 0.0);
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t oy = 0; oy < rows.pooled; ++oy)
      for (int64_t ox = 0; ox < columns.pooled; ++ox)
        for (int64_t y = rows.begin(oy); y < rows.begin(oy) + rows.kernel; ++y)
          for (int64_t x = columns.begin(ox); x < columns.begin(ox) + columns.kernel; ++x) {
            if (y < 0 || y >= rows.size || x < 0 || x >= columns.size) continue;
            for (int64_t c = 0; c < p.channels; ++c)
              sums[std::size_t(((n * rows.size + y) * columns.size + x) * p.channels + c)] +=
                  double(p.output_gradient[((n * rows.pooled + oy) * columns.pooled + ox) * p.channels + c]) *
                  p.share(oy, ox);
          }
  for (std::size_t i = 0; i < sums.size(); ++i) p.input_gradient[i] = float(sums[i]);
}

}  // namespace

extern const Kernel<MaxPoolForward> reference_max_pool_forward;
const Kernel<MaxPoolForward> reference_max_pool_forward{"reference", reference::last_resort, reference::takes_all,
                                                        forward};
extern const Kernel<MaxPoolBackward> reference_max_pool_backward;
const Kernel<MaxPoolBackward> reference_max_pool_backward{"reference", reference::last_resort, reference::takes_all,
                                                          backward};

extern const Kernel<AveragePoolBackward> reference_average_pool_backward;
const Kernel<AveragePoolBackward> reference_average_pool_backward{"reference", reference::last_resort,
                                                                  reference::takes_all, average_backward};

}  // namespace pyconvopt
