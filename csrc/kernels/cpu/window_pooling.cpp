// Max-pooling over windows of any size in NHWC maps, channels the vector axis.
//
// Forward, the pixels are normalised and activated on the way where a batch norm stands before the pool:
// the map between the two, the largest of a network that begins with them, is never stored. Backward,
// each pixel gathers from the windows that cover it, in their order.
#include "covering.hpp"
#include "reading.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

// The largest of a window's pixels in one vector of channels and where it lies, as torch: the first of
// equals, NaN wins.
struct Largest {
  Vec value;
  IVec position;

  explicit Largest(int64_t first) : value(broadcast(-__builtin_inff())), position(IVec{} + int(first)) {}
  PYCONVOPT_INLINE void see(Vec pixel, int64_t at) {
    const IVec better = (pixel > value) | (pixel != pixel);
    value = better ? pixel : value;
    position = better ? IVec{} + int(at) : position;
  }
};

// One window's part of an axis: offsets of the pixels that lie on it.
struct Inside {
  int64_t first, end;
  Inside(const PoolAxis& axis, int64_t o) : first(axis.first_inside(o)), end(axis.end_inside(o)) {}
  bool all(int64_t kernel) const { return first == 0 && end == kernel; }
};

// One line of pooled pixels. `side`: of square windows, or 0 for any.
template <int side, class Way>
PYCONVOPT_INLINE void pool_line(const WindowPoolForward& p, int64_t line, Way way) {
  const PoolAxis &rows = p.rows, &columns = p.columns;
  const int64_t channels = p.channels, row = columns.size * channels, y = line % rows.pooled;
  const float* image = p.input + line / rows.pooled * rows.size * row;
  const Inside ys(rows, y);
  for (int64_t x = 0; x < columns.pooled; ++x) {
    const Inside xs(columns, x);
    const float* window = image + rows.begin(y) * row + columns.begin(x) * channels;
    const int64_t out = (line * columns.pooled + x) * channels;
    // Calls visit(see) for each vector of channels; that calls see(row, column, position) for each pixel of the window.
    const auto pool = [&](auto visit) __attribute__((always_inline)) {
      for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
        const auto value = way.at(c);
        Largest largest(ys.first * columns.kernel + xs.first);
        visit([&](int64_t i, int64_t j, int64_t at) __attribute__((always_inline)) {
          if (j > 0) __builtin_prefetch(window + i * row + (j + columns.stride) * channels + c);  // of the next window
          largest.see(value(load(window + i * row + j * channels + c, part)), at);
        });
        store(p.output + out + c, largest.value, part);
        store_bytes(p.argmax + out + c, largest.position, part);
      });
    };
    if (side > 0 && ys.all(side) && xs.all(side))
      pool([&](auto see) __attribute__((always_inline)) {
#pragma GCC unroll 3
        for (int i = 0; i < side; ++i)
#pragma GCC unroll 3
          for (int j = 0; j < side; ++j) see(i, j, i * side + j);
      });
    else
      pool([&](auto see) __attribute__((always_inline)) {
        for (int64_t i = ys.first; i < ys.end; ++i)
          for (int64_t j = xs.first; j < xs.end; ++j) see(i, j, i * columns.kernel + j);
      });
  }
}

void forward(const WindowPoolForward& p) {
  const Reading reading(p.norm, p.channels);
  const bool threes = p.rows.kernel == 3 && p.columns.kernel == 3;
  const Chunks chunks(p.batch * p.rows.pooled, p.rows.stride * p.columns.size * p.channels, 1);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
    reading.with([&](auto way) {
      for (int64_t line = chunks.begin(chunk); line < chunks.end(chunk); ++line)
        if (threes) pool_line<3>(p, line, way);
        else pool_line<0>(p, line, way);
    });
  });
}

// The windows that cover a pixel: where their first channels lie, and the position that it has in them.
struct Covering {
  static constexpr int64_t most = 16;
  int64_t at[most];
  IVec position[most];
};

// The gradients of those of `count` windows whose maximum the pixel is. `known`: the count, or 0.
template <int known>
PYCONVOPT_INLINE void gather(const WindowPoolBackward& p, const Covering& windows, int64_t count, float* pixel,
                             bool first) {
  for_each_vector(p.channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
    Vec sum = first ? Vec{} : load(pixel + c, part);
    const auto add = [&](int64_t i) __attribute__((always_inline)) {
      const int64_t at = windows.at[i] + c;
      sum += load_bytes(p.argmax + at, part) == windows.position[i] ? load(p.output_gradient + at, part) : Vec{};
    };
    if constexpr (known > 0) {
#pragma GCC unroll 9
      for (int i = 0; i < known; ++i) add(i);
    } else {
      for (int64_t i = 0; i < count; ++i) add(i);
    }
    store(pixel + c, sum, part);
  });
}

void backward(const WindowPoolBackward& p) {
  const PoolAxis &rows = p.rows, &columns = p.columns;
  const int64_t channels = p.channels, pooled_line = columns.pooled * channels;
  for_each_covered_pixel(p.batch, rows, columns, channels, [&](CoveredPixel at) __attribute__((always_inline)) {
    const int64_t image = at.image * rows.pooled * pooled_line;
    float* pixel = p.input_gradient + at.number * channels;
    Covering windows;
    int64_t count = 0;
    bool first = true;
    for (int64_t oy = at.rows.first; oy <= at.rows.last; ++oy)
      for (int64_t ox = at.columns.first; ox <= at.columns.last; ++ox) {
        windows.at[count] = image + oy * pooled_line + ox * channels;
        windows.position[count] = IVec{} + int((at.y - rows.begin(oy)) * columns.kernel + at.x - columns.begin(ox));
        if (++count < Covering::most) continue;
        gather<0>(p, windows, count, pixel, first);
        count = 0, first = false;
      }
    if (count == 1) gather<1>(p, windows, count, pixel, first);
    else if (count == 2) gather<2>(p, windows, count, pixel, first);
    else if (count == 4) gather<4>(p, windows, count, pixel, first);
    else if (count == 6) gather<6>(p, windows, count, pixel, first);
    else if (count == 9) gather<9>(p, windows, count, pixel, first);
    else if (count || first) gather<0>(p, windows, count, pixel, first);
  });
}

template <class P>
bool applies(const P&) {
  return true;
}

}  // namespace

extern const Kernel<WindowPoolForward> window_pool_forward;
const Kernel<WindowPoolForward> window_pool_forward{"vector", "channels are the vectors; one byte of argmax",
                                                    applies<WindowPoolForward>, forward};
extern const Kernel<WindowPoolBackward> window_pool_backward;
const Kernel<WindowPoolBackward> window_pool_backward{"gather", "each pixel gathers from its windows",
                                                      applies<WindowPoolBackward>, backward};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
