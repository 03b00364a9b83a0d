// Activations with exponentials, forward and backward: one pass, each written with exp(−|x|), which
// cannot overflow. Where torch's vectorised kernels call exp, tanh and log1p one after the other, one
// exponential and one division are enough: a Mish is ten times as fast in the cache.
//
//   tanh      −t / (2 + t), t = exp(−2|x|) − 1                  derivative 1 − y²
//   ELU       expm1(x) below zero                               scale · alpha · exp(x), or scale
//   GELU      x · Φ(x), Φ from the tail on x's side             Φ + x · φ
//   Mish      x · m / (m + 2), m = e(e + 2), e = exp(x)         m / (m + 2) + 4 x e(1 + e) / (m + 2)²
//   softplus  max(x, 0) + log1p(exp(−|x|))                      σ(alpha · x)
//
// Errors beside float64: of a value at most 6e-7 of it (of GELU 1.5e-7 · (4 + x²) of it, of softplus
// 1.5e-7 · (4 + |alpha · x|)) or 2e-36, what is left out where exp(−|x|) is no normal number; of a
// derivative at most 1e-6. Denormals count as zero. Not a number and infinities give what the formulas
// give, as torch's kernels do.
// Source of the definitions: Clevert et al. 2015, Hendrycks and Gimpel 2016, Misra 2019.
#include "../activation.hpp"

#include "rows.hpp"
#include "vec_math.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

constexpr float cubic = 0.044715f, slope = 1.59576912f;  // of GELU by tanh; 2 √(2/π)

PYCONVOPT_INLINE Vec where_negative(Vec x, Vec then, Vec otherwise) { return x < 0.0f ? then : otherwise; }

PYCONVOPT_INLINE NormalTail normal(Vec x) {
  NormalTail n = normal_tail(absolute(x));
  n.tail = where_negative(x, n.tail, 1.0f - n.tail);
  return n;
}

// m and m + 2 of Mish, both times exp(−2x) where x > 0.
struct MishRatio {
  Vec e, numerator, denominator;
};
PYCONVOPT_INLINE MishRatio mish_ratio(Vec x) {
  const Vec e = exp_negative(-absolute(x)), square = e * e;
  const Vec numerator = where_negative(x, square + 2.0f * e, 1.0f + 2.0f * e);
  return {e, numerator, numerator + where_negative(x, broadcast(2.0f), 2.0f * square)};
}

template <Function function>
PYCONVOPT_INLINE Vec value(const ActivationForward& p, Vec x) {
  if constexpr (function == Function::tanh) {
    const Vec t = expm1_negative(-2.0f * absolute(x));
    return with_sign_of(absolute(t / (2.0f + t)), x);
  } else if constexpr (function == Function::elu) {
    return x <= 0.0f ? (p.scale * p.alpha) * expm1_negative(x) : p.scale * x;
  } else if constexpr (function == Function::gelu) {
    return x * normal(x).tail;
  } else if constexpr (function == Function::gelu_tanh) {
    return x * sigmoid(slope * x * (1.0f + cubic * x * x)).value;
  } else if constexpr (function == Function::silu) {
    return x * sigmoid(x).value;
  } else if constexpr (function == Function::mish) {
    const MishRatio m = mish_ratio(x);
    return x * (m.numerator / m.denominator);
  } else {
    const Vec z = p.alpha * x, positive = z < 0.0f ? Vec{} : z;
    const Vec y = (positive + log1p_unit(exp_negative(-absolute(z)))) / p.alpha;
    return z > p.scale ? x : y;
  }
}

template <Function function>
PYCONVOPT_INLINE Vec derivative(const ActivationBackward& p, Vec kept) {
  const Vec x = kept;
  if constexpr (function == Function::tanh) {
    return 1.0f - kept * kept;
  } else if constexpr (function == Function::elu) {
    return x > 0.0f ? broadcast(p.scale) : (p.scale * p.alpha) * exp_negative(x);
  } else if constexpr (function == Function::gelu) {
    const NormalTail n = normal(x);
    return n.tail + x * (n.bell * 0.398942280f);
  } else if constexpr (function == Function::gelu_tanh) {
    const Vec square = x * x;
    const Sigmoid s = sigmoid(slope * x * (1.0f + cubic * square));
    return s.value + (x * (s.value * s.complement)) * (slope * (1.0f + 3.0f * cubic * square));
  } else if constexpr (function == Function::silu) {
    const Sigmoid s = sigmoid(x);
    return s.value * (1.0f + x * s.complement);
  } else if constexpr (function == Function::mish) {
    const MishRatio m = mish_ratio(x);
    const Vec inverse = 1.0f / m.denominator, e = where_negative(x, m.e, m.e * m.e);
    return inverse * (m.numerator + x * (4.0f * e * (1.0f + m.e) * inverse));
  } else {
    const Vec z = p.alpha * x;
    return z > p.scale ? broadcast(1.0f) : sigmoid(z).value;
  }
}

// run(integral constant of the function) for the one that is asked for.
template <class Run>
PYCONVOPT_INLINE void with_function(Function function, Run run) {
  switch (function) {
    case Function::tanh: return run.template operator()<Function::tanh>();
    case Function::elu: return run.template operator()<Function::elu>();
    case Function::gelu: return run.template operator()<Function::gelu>();
    case Function::gelu_tanh: return run.template operator()<Function::gelu_tanh>();
    case Function::silu: return run.template operator()<Function::silu>();
    case Function::mish: return run.template operator()<Function::mish>();
    case Function::softplus: return run.template operator()<Function::softplus>();
  }
}

void forward(const ActivationForward& p) {
  with_function(p.function, [&]<Function function>() {
    const Chunks chunks(p.size, 1, lanes);
    for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
      const int64_t begin = chunks.begin(chunk);
      for_each_vector(chunks.end(chunk) - begin, [&](int64_t i, auto part) __attribute__((always_inline)) {
        store(p.output + begin + i, value<function>(p, load(p.input + begin + i, part)), part);
      });
    });
  });
}

void backward(const ActivationBackward& p) {
  with_function(p.function, [&]<Function function>() {
    const Chunks chunks(p.size, 1, lanes);
    for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
      const int64_t begin = chunks.begin(chunk);
      for_each_vector(chunks.end(chunk) - begin, [&](int64_t i, auto part) __attribute__((always_inline)) {
        const int64_t at = begin + i;
        const Vec gradient = load(p.output_gradient + at, part);
        store(p.input_gradient + at, gradient * derivative<function>(p, load(p.kept + at, part)), part);
      });
    });
  });
}

template <class P>
bool applies(const P&) {
  return true;
}

}  // namespace

constexpr const char* why = "one pass with one exponential an element";
extern const Kernel<ActivationForward> exponential_forward;
const Kernel<ActivationForward> exponential_forward{"exponential", why, applies<ActivationForward>, forward};
extern const Kernel<ActivationBackward> exponential_backward;
const Kernel<ActivationBackward> exponential_backward{"exponential", why, applies<ActivationBackward>, backward};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
