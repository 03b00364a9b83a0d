// The pixels of NHWC maps and the pooling windows that cover them: gradients of pools gather from these, so that
// nothing is cleared first and no two threads write to one pixel.
#pragma once
#include "../pool.hpp"
#include "rows.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

struct Span {  // of windows along an axis; none where the last lies before the first
  int64_t first, last;
};

struct CoveredPixel {
  int64_t number, image, y, x;  // the number counts through all images
  Span rows, columns;
};

// visit(CoveredPixel) for all pixels, by all threads.
template <class Visit>
inline void for_each_covered_pixel(int64_t batch, const PoolAxis& rows, const PoolAxis& columns, int64_t channels,
                                   Visit visit) {
  const Chunks chunks(batch * rows.size, columns.size * channels, 1);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
    for (int64_t line = chunks.begin(chunk); line < chunks.end(chunk); ++line) {
      const int64_t y = line % rows.size;
      CoveredPixel pixel{line * columns.size, line / rows.size, y, 0, {rows.first_over(y), rows.last_over(y)}, {0, -1}};
      for (; pixel.x < columns.size; ++pixel.x, ++pixel.number) {
        Span& over = pixel.columns;  // moves on with the pixel
        while (columns.begin(over.first) + columns.kernel <= pixel.x) ++over.first;
        while (over.last + 1 < columns.pooled && columns.begin(over.last + 1) <= pixel.x) ++over.last;
        visit(pixel);
      }
    }
  });
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
