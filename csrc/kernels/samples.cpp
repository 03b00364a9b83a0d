#include "samples.hpp"

#include <cmath>
#include <cstring>

namespace pyconvopt {
namespace {

constexpr int64_t bytes_for_threads = 1 << 16;  // below, starting them takes longer than what they save

int64_t position_of_largest(const float* row, int64_t columns) {
  int64_t best = 0;
  for (int64_t c = 1; c < columns; ++c)
    if (row[c] > row[best] || (std::isnan(row[c]) && !std::isnan(row[best]))) best = c;
  return best;
}

void as_floats(const uint8_t* __restrict bytes, int64_t size, float* __restrict floats) {
  for (int64_t i = 0; i < size; ++i) floats[i] = float(bytes[i]);
}

}  // namespace

void run(const Gather& g) {
  const std::size_t row_bytes = std::size_t(g.size) * sizeof(float);
  const std::size_t label_bytes = std::size_t(g.label_bytes);
#pragma omp parallel for schedule(static) if (g.batch * int64_t(row_bytes) > bytes_for_threads)
  for (int64_t i = 0; i < g.batch; ++i) {
    const int64_t first = g.rows[i] * g.size;
    float* to = g.output + i * g.size;
    if (g.bytes) as_floats(g.bytes + first, g.size, to);
    else std::memcpy(to, g.floats + first, row_bytes);
    if (label_bytes) std::memcpy(g.label_output + i * g.label_bytes, g.labels + g.rows[i] * g.label_bytes, label_bytes);
  }
}

int64_t right_answers(const float* outputs, int64_t rows, int64_t columns, const int64_t* labels) {
  int64_t right = 0;
  for (int64_t r = 0; r < rows; ++r) right += position_of_largest(outputs + r * columns, columns) == labels[r];
  return right;
}

}  // namespace pyconvopt
