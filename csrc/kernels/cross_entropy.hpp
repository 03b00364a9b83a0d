// Cross-entropy of softmax: rows of logits z and the class t that each row is of, and the gradient.
//
//   −log p_t, with p = exp(z − m) / Σ exp(z − m) and m the largest of the row;
//   with class weights w and label smoothing s over C classes
//   loss = (1 − s) · w_t · (−log p_t) + s/C · Σ_c w_c · (−log p_c),
//   dz_c = (1 − s) · w_t · (p_c − [c = t]) + s/C · (p_c · Σ w − w_c).
// A mean divides both by Σ w_t over the rows. Rows of the class `ignored` count for nothing.
//
// The gradient is made with the loss, where there is to be one: the exponentials are at hand then, and
// the backward pass has nothing left to do but to multiply it by the gradient of the loss, mostly 1.
#pragma once
#include "kernel.hpp"

namespace pyconvopt {

enum class Reduction : int { none, mean, sum };  // numbered as torch numbers them
inline constexpr int reductions = int(Reduction::sum) + 1;

// Targets other than `ignored` have to lie in 0..classes − 1.
struct CrossEntropy {
  int64_t rows, classes;
  const float* logits;
  const int64_t* target;
  const float* weight = nullptr;  // of each class, or null for ones
  int64_t ignored = -100;
  double smoothing = 0;
  Reduction reduction = Reduction::mean;
  float* loss = nullptr;      // one a row, or the one number that the reduction gives
  float* gradient = nullptr;  // rows × classes, or null

  bool counts(int64_t row) const { return target[row] != ignored; }
  double weight_of(int64_t c) const { return weight ? weight[c] : 1.0; }
  // The first row whose target is no class, or −1: for callers, the kernels do not look.
  int64_t first_out_of_range() const {
    bool wrong = false;
    for (int64_t row = 0; row < rows; ++row) wrong |= counts(row) & (uint64_t(target[row]) >= uint64_t(classes));
    for (int64_t row = 0; wrong; ++row)
      if (counts(row) && uint64_t(target[row]) >= uint64_t(classes)) return row;
    return -1;
  }
};

}  // namespace pyconvopt
