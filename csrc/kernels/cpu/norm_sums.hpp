// What the backward of a batch norm sums up over the rows of a map: Σg and Σg·(x − mean) of every channel, where g is
// the gradient behind the activation.
//
// Rows are summed in pieces, each in the order of its rows and in single precision into a line of its own, and the
// pieces in double. Both depend on the shape alone: a convolution that takes the sums of the gradient it writes finds
// the same bits as a pass over the maps.
#pragma once
#include "affine.hpp"
#include "rows.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

class NormSums {
 public:
  NormSums(int64_t rows, int64_t channels)
      : rows_(rows),
        channels_(channels),
        stride_(round_up(channels, 16)),
        pieces_((rows + piece(rows) - 1) / piece(rows)),
        space_(Workspace::bytes_for(2 * stride_ * pieces_) + Workspace::bytes_for(4 * stride_)),
        lines_(space_.floats(2 * stride_ * pieces_)),
        totals_(reinterpret_cast<double*>(space_.floats(4 * stride_))) {}

  // Rows of one: of small maps few, so that there are pieces for many threads.
  static constexpr int64_t largest_piece = 128;
  static int64_t piece(int64_t rows) { return rows >= 16384 ? largest_piece : rows >= 4096 ? 64 : 16; }
  Chunks chunks() const { return {rows_, channels_, piece(rows_)}; }

  // Adds some rows. All those of a piece come from one thread, in their order. term(row, c, part, s) adds to both sums.
  template <class Term>
  PYCONVOPT_INLINE void add(bool blocks, int64_t begin, int64_t end, Term term) {
    const int64_t each = piece(rows_);
    for (int64_t row = begin; row < end;) {
      const int64_t i = row / each, last = least(end, (i + 1) * each);
      float* sums = lines_ + i * 2 * stride_;
      if (row == i * each)
        for (int64_t c = 0; c < 2 * stride_; ++c) sums[c] = 0;
      sum_rows<2>(blocks, row, last, channels_, sums, stride_, term);
      row = last;
    }
  }
  // Of a gradient and the map in front of norm and activation.
  void add_rows(Activation activation, const AffineLines& lines, const float* gradient, const float* map, bool blocks,
                int64_t begin, int64_t end) {
    with_activation(activation, [&]<Activation known>() {
      add(blocks, begin, end, [&](int64_t row, int64_t c, auto part, Vec* s) __attribute__((always_inline)) {
        const int64_t at = row * channels_ + c;
        const Vec x = load(map + at, part);
        const Vec g = let_through<known>(load(gradient + at, part), lines.at(c)(x));
        s[0] += g;
        s[1] += g * (x - load(lines.mean + c));
      });
    });
  }
  // The same of all rows.
  void add_map(Activation activation, const AffineLines& lines, const float* gradient, const float* map) {
    const Chunks all = chunks();
    for_each_chunk(all.count, [&](int64_t chunk, int64_t) {
      add_rows(activation, lines, gradient, map, in_blocks(rows_ * channels_), all.begin(chunk), all.end(chunk));
    });
  }

  // Once all rows are in: Σg for q = 0, Σg·(x − mean) for q = 1.
  const double* total(int q) {
    if (!added_) add_pieces();
    added_ = true;
    return totals_ + q * stride_;
  }
  // For the weight and bias of the norm.
  void leave(const InputNorm& norm, float* weight_gradient, float* bias_gradient) {
    const double *gradient = total(0), *product = total(1);
    for (int64_t c = 0; c < channels_; ++c) {
      weight_gradient[c] = float(product[c] * norm.invstd[c]);
      bias_gradient[c] = float(gradient[c]);
    }
  }

 private:
  void add_pieces() {
    constexpr int64_t together = 16;
    const int64_t items = 2 * stride_ / together;
#pragma omp parallel for schedule(static) if (pieces_ * stride_ >= 32768)
    for (int64_t item = 0; item < items; ++item) {
      double sums[together] = {};
      for (int64_t i = 0; i < pieces_; ++i) {
        const float* from = lines_ + i * 2 * stride_ + item * together;
        for (int64_t c = 0; c < together; ++c) sums[c] += double(from[c]);
      }
      for (int64_t c = 0; c < together; ++c) totals_[item * together + c] = sums[c];
    }
  }

  int64_t rows_, channels_, stride_, pieces_;
  Workspace space_;
  float* lines_;
  double* totals_;
  bool added_ = false;
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
