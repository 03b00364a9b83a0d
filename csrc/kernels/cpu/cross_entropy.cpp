// Cross-entropy of softmax and its gradient, several rows at a time while they are in the first cache:
// their largest logits, the exponentials and their sums, and the exponentials scaled to the gradient.
// One exponential an element serves both; torch takes one in each pass and goes over the matrix twice
// more, and element by element where a row is shorter than its vectors.
//
// Classes are the vector axis. Lanes behind the end of a row hold −∞ for the maximum and the sum, the
// row's maximum for the smoothing: they add nothing. Losses are summed in double, in chunks whose size
// depends on the shape alone.
//
// Errors beside float64: of a probability at most (5e-7 + 6e-8 · (C / (4 · lanes) + 8)) of it for C classes;
// of a row's loss that plus 2.5e-7 of it and 6e-8 of each difference of logits in it, of its gradient that
// of the probabilities and 1.2e-7 of the row's weight. Exponentials below the smallest normal number are
// zero; a row with a NaN or +∞, or of −∞ alone, is NaN, as with torch.
#include "../cross_entropy.hpp"

#include "rows.hpp"
#include "vec_math.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

constexpr float infinity = __builtin_inff();

PYCONVOPT_INLINE Vec load_or(const float* p, Whole, float) { return load(p); }
PYCONVOPT_INLINE Vec load_or(const float* p, First part, float behind) {
  IVec lane;
  for (int i = 0; i < lanes; ++i) lane[i] = i;
  return lane < part.n ? load_first(p, part.n) : broadcast(behind);
}

// What `join` makes of the lanes of each of `lanes` vectors, side by side: pairs of vectors, then of those
// made of them, so that 2 · (lanes − 1) shuffles serve them all.
template <class Join>
PYCONVOPT_INLINE Vec across(Vec* v, Join join) {
#pragma GCC unroll 4
  for (int width = lanes; width > 1; width /= 2) {  // lanes that a vector's values have in those at hand
    IVec low;
    for (int i = 0; i < lanes; ++i) low[i] = 2 * i - i % (width / 2);
#pragma GCC unroll 8
    for (int i = 0; i < width / 2; ++i)
      v[i] = join(__builtin_shuffle(v[2 * i], v[2 * i + 1], low),
                  __builtin_shuffle(v[2 * i], v[2 * i + 1], low + width / 2));
  }
  return v[0];
}
constexpr auto larger = [](Vec a, Vec b) __attribute__((always_inline)) { return max(a, b); };
constexpr auto added = [](Vec a, Vec b) __attribute__((always_inline)) { return a + b; };

// body(accumulator 0..3, class, part): four chains of additions or comparisons, not one that each waits for.
template <class Body>
PYCONVOPT_INLINE void for_each_in_four(int64_t classes, Body body) {
  int64_t c = 0;
  for (; c + 4 * lanes <= classes; c += 4 * lanes) {
    body(0, c, Whole{});
    body(1, c + lanes, Whole{});
    body(2, c + 2 * lanes, Whole{});
    body(3, c + 3 * lanes, Whole{});
  }
  for_each_vector(classes - c, [&](int64_t i, auto part) __attribute__((always_inline)) { body(0, c + i, part); });
}

PYCONVOPT_INLINE Vec largest(const float* z, int64_t classes) {
  Vec m[4];
  for (Vec& each : m) each = broadcast(-infinity);
  for_each_in_four(classes, [&](int i, int64_t c, auto part)
                                __attribute__((always_inline)) { m[i] = max(m[i], load_or(z + c, part, -infinity)); });
  return max(max(m[0], m[1]), max(m[2], m[3]));
}

// Σ exp(z − m) and, if `smoothed`, Σ w · (z − m); the exponentials are left in `kept`, if `graded`.
struct Sums {
  Vec exponentials, deviations;
};
template <bool smoothed, bool graded>
PYCONVOPT_INLINE Sums sums_of_row(const CrossEntropy& p, const float* z, float m, float* kept) {
  Vec e[4]{}, d[4]{};
  for_each_in_four(p.classes, [&](int i, int64_t c, auto part) __attribute__((always_inline)) {
    const Vec exponential = exp_negative(load_or(z + c, part, -infinity) - m);
    e[i] += exponential;
    if constexpr (graded) store(kept + c, exponential, part);
    if constexpr (smoothed) {
      const Vec deviation = load_or(z + c, part, m) - m;
      d[i] += p.weight ? load(p.weight + c, part) * deviation : deviation;
    }
  });
  return {(e[0] + e[1]) + (e[2] + e[3]), (d[0] + d[1]) + (d[2] + d[3])};
}

// From the exponentials to the gradient, but for the target's own part.
template <bool smoothed>
PYCONVOPT_INLINE void scale(const CrossEntropy& p, float* row, float factor, float spread) {
  for_each_vector(p.classes, [&](int64_t c, auto part) __attribute__((always_inline)) {
    Vec gradient = load(row + c, part) * factor;
    if constexpr (smoothed) gradient -= p.weight ? load(p.weight + c, part) * spread : broadcast(spread);
    store(row + c, gradient, part);
  });
}

// What a row counts for, before the reduction.
struct Factors {
  double divisor;  // of a mean, else 1
  double own;      // 1 − s
  double share;    // s / C
  double weights;  // of all classes
};

// `rows` rows from `first` on, at most `lanes`; gives the sum of their losses.
template <bool smoothed, bool graded>
PYCONVOPT_INLINE double rows_together(const CrossEntropy& p, const Factors& f, int64_t first, int rows) {
  float maximum[lanes], logarithm[lanes], inverse[lanes], deviation[lanes];
  Vec v[lanes]{}, deviations[lanes]{};
  const float* logits = p.logits + first * p.classes;
  float* gradient = graded ? p.gradient + first * p.classes : nullptr;
  for (int i = 0; i < rows; ++i) v[i] = largest(logits + i * p.classes, p.classes);
  store(maximum, across(v, larger));
  for (int i = 0; i < rows; ++i) {
    const int64_t at = i * p.classes;
    const Sums sums = sums_of_row<smoothed, graded>(p, logits + at, maximum[i], graded ? gradient + at : nullptr);
    v[i] = sums.exponentials, deviations[i] = sums.deviations;
  }
  const Vec sum = across(v, added);
  store(logarithm, log_above_one(sum));
  store(inverse, 1.0f / sum);
  if constexpr (smoothed) store(deviation, across(deviations, added));

  double losses = 0;
  for (int i = 0; i < rows; ++i) {
    const int64_t at = i * p.classes, t = p.target[first + i];
    const bool counts = p.counts(first + i);
    const double own = counts ? f.own * p.weight_of(t) : 0, spread = counts ? f.share : 0;
    double loss = counts ? own * (double(logarithm[i]) - (logits[at + t] - maximum[i])) : 0;
    if (smoothed && counts) loss += spread * (f.weights * logarithm[i] - deviation[i]);
    losses += loss;
    if (p.reduction == Reduction::none) p.loss[first + i] = float(loss);
    if constexpr (graded) {
      const double by = counts ? 1 / f.divisor : 0;  // where no row counts it is infinite
      scale<smoothed>(p, gradient + at, float((own + spread * f.weights) * by * inverse[i]), float(spread * by));
      if (counts) gradient[at + t] -= float(own * by);
    }
  }
  return losses;
}

// Σ over the rows of what `term` gives for those of a chunk.
template <class Term>
PYCONVOPT_INLINE double sum_chunks(const Chunks& chunks, Term term) {
  double each[most_chunks], sum = 0;
  for_each_chunk(chunks.count,
                 [&](int64_t chunk, int64_t) { each[chunk] = term(chunks.begin(chunk), chunks.end(chunk)); });
  for (int64_t i = 0; i < chunks.count; ++i) sum += each[i];
  return sum;
}

template <bool smoothed, bool graded>
void run_as(const CrossEntropy& p) {
  Factors f{1, 1 - p.smoothing, p.smoothing / double(p.classes), 0};
  for (int64_t c = 0; smoothed && c < p.classes; ++c) f.weights += p.weight_of(c);
  if (p.reduction == Reduction::mean)
    f.divisor = sum_chunks(Chunks(p.rows, 1), [&](int64_t row, int64_t end) {
      double sum = 0;
      for (; row < end; ++row) sum += p.counts(row) ? p.weight_of(p.target[row]) : 0;
      return sum;
    });
  const int64_t together = p.classes <= 256 ? lanes : 1;  // they are read again: 16 · 256 · 8 bytes
  const double loss = sum_chunks(Chunks(p.rows, p.classes), [&](int64_t row, int64_t end) {
    double sum = 0;
    for (; row < end; row += together)
      sum += rows_together<smoothed, graded>(p, f, row, int(least(together, end - row)));
    return sum;
  });
  if (p.reduction != Reduction::none) *p.loss = float(loss / f.divisor);
}

void cross_entropy_rows(const CrossEntropy& p) {
  if (p.smoothing > 0) return p.gradient ? run_as<true, true>(p) : run_as<true, false>(p);
  return p.gradient ? run_as<false, true>(p) : run_as<false, false>(p);
}

bool applies(const CrossEntropy&) { return true; }

}  // namespace

extern const Kernel<CrossEntropy> cross_entropy;
const Kernel<CrossEntropy> cross_entropy{"softmax_rows", "one exponential an element for loss and gradient", applies,
                                         cross_entropy_rows};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
