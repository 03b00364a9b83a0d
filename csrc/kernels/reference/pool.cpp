// Max-pooling and the gradient of average pooling, plainly.
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

// visit(index of the pooled element, channel, image, row and column of its window in the pooled map).
template <class P, class Visit>
void for_each_pooled(const P& p, Visit visit) {
  int64_t pooled = 0;
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t y = 0; y < p.rows.pooled; ++y)
      for (int64_t x = 0; x < p.columns.pooled; ++x)
        for (int64_t c = 0; c < p.channels; ++c) visit(pooled++, c, n, y, x);
}

template <class P>
int64_t map_at(const P& p, int64_t n, int64_t y, int64_t x, int64_t c) {
  return ((n * p.rows.size + y) * p.columns.size + x) * p.channels + c;
}

void window_forward(const WindowPoolForward& p) {
  const PoolAxis &rows = p.rows, &columns = p.columns;
  for_each_pooled(p, [&](int64_t pooled, int64_t c, int64_t n, int64_t oy, int64_t ox) {
    bool first = true;
    double best = 0;
    for (int64_t i = 0; i < rows.kernel; ++i)
      for (int64_t j = 0; j < columns.kernel; ++j) {
        const int64_t y = rows.begin(oy) + i, x = columns.begin(ox) + j;
        if (y < 0 || y >= rows.size || x < 0 || x >= columns.size) continue;
        const double value = reference::normalized(p.norm, c, p.input[map_at(p, n, y, x, c)]);
        if (!first && !(value > best) && !std::isnan(value)) continue;
        best = value, first = false;
        p.argmax[pooled] = uint8_t(i * columns.kernel + j);
      }
    p.output[pooled] = float(best);
  });
}

// Each window gives its gradient to one pixel: the other way round than the fast kernel.
void window_backward(const WindowPoolBackward& p) {
  std::vector<double> sums(std::size_t(p.batch * p.rows.size * p.columns.size * p.channels), 0.0);
  for_each_pooled(p, [&](int64_t pooled, int64_t c, int64_t n, int64_t oy, int64_t ox) {
    const int64_t y = p.rows.begin(oy) + p.argmax[pooled] / p.columns.kernel;
    const int64_t x = p.columns.begin(ox) + p.argmax[pooled] % p.columns.kernel;
    if (y < 0 || y >= p.rows.size || x < 0 || x >= p.columns.size) return;
    sums[std::size_t(map_at(p, n, y, x, c))] += p.output_gradient[pooled];
  });
  for (std::size_t i = 0; i < sums.size(); ++i) p.input_gradient[i] = float(sums[i]);
}

// Window by window, each spread over its pixels: the other way round than the fast kernel.
void average_backward(const AveragePoolBackward& p) {
  const PoolAxis &rows = p.rows, &columns = p.columns;
  std::vector<double> sums(std::size_t(p.batch * rows.size * columns.size * p.channels), 0.0);
  for_each_pooled(p, [&](int64_t pooled, int64_t c, int64_t n, int64_t oy, int64_t ox) {
    for (int64_t y = rows.begin(oy); y < rows.begin(oy) + rows.kernel; ++y)
      for (int64_t x = columns.begin(ox); x < columns.begin(ox) + columns.kernel; ++x)
        if (y >= 0 && y < rows.size && x >= 0 && x < columns.size)
          sums[std::size_t(map_at(p, n, y, x, c))] += double(p.output_gradient[pooled]) * p.share(oy, ox);
  });
  for (std::size_t i = 0; i < sums.size(); ++i) p.input_gradient[i] = float(sums[i]);
}

}  // namespace

extern const Kernel<MaxPoolForward> reference_max_pool_forward;
const Kernel<MaxPoolForward> reference_max_pool_forward{"reference", reference::last_resort, reference::takes_all,
                                                        forward};
extern const Kernel<MaxPoolBackward> reference_max_pool_backward;
const Kernel<MaxPoolBackward> reference_max_pool_backward{"reference", reference::last_resort, reference::takes_all,
                                                          backward};

extern const Kernel<WindowPoolForward> reference_window_pool_forward;
const Kernel<WindowPoolForward> reference_window_pool_forward{"reference", reference::last_resort, reference::takes_all,
                                                              window_forward};
extern const Kernel<WindowPoolBackward> reference_window_pool_backward;
const Kernel<WindowPoolBackward> reference_window_pool_backward{"reference", reference::last_resort,
                                                                reference::takes_all, window_backward};

extern const Kernel<AveragePoolBackward> reference_average_pool_backward;
const Kernel<AveragePoolBackward> reference_average_pool_backward{"reference", reference::last_resort,
                                                                  reference::takes_all, average_backward};

}  // namespace pyconvopt
