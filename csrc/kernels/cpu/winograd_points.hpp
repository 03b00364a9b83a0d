// Winograd's transforms along one dimension: interpolation of polynomials at a set of points.
//
// Of a set of points, all walked with the given strides:
//   input<n>     Bᵀ d: n pixels of a tile to `values` values
//   filter<n>    G g: n taps to `factors` factors, some of which may be multiplied by several values
//   output<n>    Aᵀ m: the products of all values to n outputs
// and for the weight gradient, where the output's gradient takes the place of the filter:
//   gradient<n>  n outputs to `values` values
//   weights<n>   the products' sums, one for each factor, to n taps
//
// Along two dimensions a tile has values² positions, numbered by place(i, j) so that those of one factor follow one
// another: number u of the factors² has the positions first(u) to first(u + 1), and factor_of(position) is u.
//
// No sum of two products in `input`: a compiler may fuse either with the sum, and the result's last bit would depend on
// what else is done here.
#pragma once
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd {

// As many factors as values: each position has its own.
template <int count>
struct Square {
  static constexpr int values = count, factors = count;
  static constexpr int place(int i, int j) { return i * count + j; }
  static constexpr int first(int u) { return u; }
  static constexpr int factor_of(int position) { return position; }
};

// 0, ±5/8, ±3/2, ∞: half the rounding error of the textbook's 0, ±1, ±2, ∞ (relative RMS error 1.2e-6 against 2.4e-6
// at 256 channels).
struct SixPoints : Square<6> {
  static constexpr float p1 = 5.0f / 8, p2 = 3.0f / 2;  // the points ±p1, ±p2
  static constexpr float s1 = p1 * p1, s2 = p2 * p2;    // their squares
  static constexpr float scale0 = 1 / (s1 * s2);        // 1 / Π (point - other points)
  static constexpr float scale1 = 1 / (2 * s1 * (s1 - s2));
  static constexpr float scale2 = 1 / (2 * s2 * (s2 - s1));

  template <int n>
  static PYCONVOPT_INLINE void input(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 6);
    const Vec d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step], d4 = in[4 * step], d5 = in[5 * step];
    out[0] = (d4 - d2 * (s1 + s2)) + d0 * (s1 * s2);
    const Vec even1 = d4 - d2 * s2, odd1 = (d3 - d1 * s2) * p1;
    const Vec even2 = d4 - d2 * s1, odd2 = (d3 - d1 * s1) * p2;
    out[out_step] = even1 + odd1;
    out[2 * out_step] = even1 - odd1;
    out[3 * out_step] = even2 + odd2;
    out[4 * out_step] = even2 - odd2;
    out[5 * out_step] = (d5 - d3 * (s1 + s2)) + d1 * (s1 * s2);
  }

  template <int n>
  static PYCONVOPT_INLINE void filter(const Vec* in, int step, Vec* out, int out_step) {
    evaluate<n>(in, step, out, out_step, scale0, scale1, scale2);
  }
  template <int n>
  static PYCONVOPT_INLINE void gradient(const Vec* in, int step, Vec* out, int out_step) {
    filter<n>(in, step, out, out_step);
  }

  template <int n>
  static PYCONVOPT_INLINE void output(const Vec* in, int step, Vec* out, int out_step) {
    const Vec sum1 = in[step] + in[2 * step], difference1 = in[step] - in[2 * step];
    const Vec sum2 = in[3 * step] + in[4 * step], difference2 = in[3 * step] - in[4 * step];
    out[0] = in[0] + sum1 + sum2;
    out[out_step] = difference1 * p1 + difference2 * p2;
    if constexpr (n > 2) out[2 * out_step] = sum1 * s1 + sum2 * s2;
    if constexpr (n > 3) out[3 * out_step] = difference1 * (s1 * p1) + difference2 * (s2 * p2);
    if constexpr (n > 4) out[4 * out_step] = sum1 * (s1 * s1) + sum2 * (s2 * s2);
    out[(n - 1) * out_step] += in[5 * step];
  }
  template <int n>
  static PYCONVOPT_INLINE void weights(const Vec* in, int step, Vec* out, int out_step) {
    output<n>(in, step, out, out_step);
  }

  // For the transposed algorithm. A g: n outputs' gradients at the points.
  template <int n>
  static PYCONVOPT_INLINE void spread(const Vec* in, int step, Vec* out, int out_step) {
    evaluate<n>(in, step, out, out_step, 1, 1, 1);
  }
  // B m: six products to the six pixels they came from, the transpose of `input`.
  static PYCONVOPT_INLINE void scatter(const Vec* in, int step, Vec* out, int out_step) {
    const Vec m0 = in[0], m5 = in[5 * step];
    const Vec sum1 = in[step] + in[2 * step], difference1 = (in[step] - in[2 * step]) * p1;
    const Vec sum2 = in[3 * step] + in[4 * step], difference2 = (in[3 * step] - in[4 * step]) * p2;
    out[0] = m0 * (s1 * s2);
    out[out_step] = m5 * (s1 * s2) - difference1 * s2 - difference2 * s1;
    out[2 * out_step] = -(m0 * (s1 + s2)) - sum1 * s2 - sum2 * s1;
    out[3 * out_step] = difference1 + difference2 - m5 * (s1 + s2);
    out[4 * out_step] = m0 + sum1 + sum2;
    out[5 * out_step] = m5;
  }

 private:
  // A polynomial with n coefficients at the points, the pairs of them scaled.
  template <int n>
  static PYCONVOPT_INLINE void evaluate(const Vec* in, int step, Vec* out, int out_step, float at0, float at1,
                                        float at2) {
    constexpr int last_even = (n - 1) / 2 * 2, last_odd = n / 2 * 2 - 1;
    out[0] = in[0] * at0;
    const auto pair = [&](float point, float scale, Vec* values) __attribute__((always_inline)) {
      Vec even = in[last_even * step], odd = in[last_odd * step];
#pragma GCC unroll 2
      for (int k = last_even - 2; k >= 0; k -= 2) even = in[k * step] + even * (point * point);
#pragma GCC unroll 2
      for (int k = last_odd - 2; k >= 0; k -= 2) odd = in[k * step] + odd * (point * point);
      even = even * scale;
      odd = odd * (point * scale);
      values[0] = even + odd;
      values[out_step] = even - odd;
    };
    pair(p1, at1, out + out_step);
    pair(p2, at2, out + 3 * out_step);
    out[5 * out_step] = in[(n - 1) * step];
  }
};

// 0, ±1, ∞, for two outputs of three taps.
struct FourPoints : Square<4> {
  template <int n>
  static PYCONVOPT_INLINE void input(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 4);
    out[0] = in[0] - in[2 * step];
    out[out_step] = in[2 * step] + in[step];
    out[2 * out_step] = in[2 * step] - in[step];
    out[3 * out_step] = in[3 * step] - in[step];
  }
  template <int n>
  static PYCONVOPT_INLINE void filter(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 3);
    const Vec even = (in[0] + in[2 * step]) * 0.5f, odd = in[step] * 0.5f;
    out[0] = in[0];
    out[out_step] = even + odd;
    out[2 * out_step] = even - odd;
    out[3 * out_step] = in[2 * step];
  }
  template <int n>
  static PYCONVOPT_INLINE void output(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 2);
    out[0] = in[0] + (in[step] + in[2 * step]);
    out[out_step] = (in[step] - in[2 * step]) + in[3 * step];
  }
};

// Three taps of stride 2: the outer two meet every second pixel, four outputs of them on ±3/8, ±5/4, ∞; the middle one
// meets the pixels between, four more values with one factor. (Relative RMS error 4.5e-7 at 128 channels, direct
// convolution's 6.7e-7.)
struct StridedPoints {
  static constexpr int values = 9, factors = 6;
  static constexpr int place(int i, int j) {
    if (i < 5) return i * 9 + j;
    return j < 5 ? 45 + j * 4 + (i - 5) : 65 + (i - 5) * 4 + (j - 5);
  }
  static constexpr int first(int u) {
    if (u < 30) return u / 6 * 9 + u % 6;
    return u < 36 ? 45 + (u - 30) * 4 : 81;
  }
  static constexpr int factor_of(int position) {
    if (position < 45) return position / 9 * 6 + (position % 9 < 5 ? position % 9 : 5);
    return position < 65 ? 30 + (position - 45) / 4 : 35;
  }

  static constexpr float p1 = 3.0f / 8, p2 = 5.0f / 4;
  static constexpr float s1 = p1 * p1, s2 = p2 * p2;
  static constexpr float scale1 = 1 / (2 * (s1 - s2)), scale2 = 1 / (2 * (s2 - s1));

  // Nine pixels of the map; or five of the output's gradient, whose four outputs a pixel apart meet the middle tap.
  template <int n>
  static PYCONVOPT_INLINE void input(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 9 || n == 5);
    const int next = n == 9 ? 2 * step : step;
    const Vec d0 = in[0], d1 = in[next], d2 = in[2 * next], d3 = in[3 * next], d4 = in[4 * next];
    const Vec odd1 = d3 - d1 * s2, even1 = (d2 - d0 * s2) * p1;
    const Vec odd2 = d3 - d1 * s1, even2 = (d2 - d0 * s1) * p2;
    out[0] = odd1 + even1;
    out[out_step] = odd1 - even1;
    out[2 * out_step] = odd2 + even2;
    out[3 * out_step] = odd2 - even2;
    out[4 * out_step] = (d4 - d2 * (s1 + s2)) + d0 * (s1 * s2);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) out[(5 + i) * out_step] = in[n == 9 ? (2 * i + 1) * step : i * step];
  }

  template <int n>
  static PYCONVOPT_INLINE void filter(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 3);
    evaluate(in[0], in[2 * step], in[0], in[2 * step], out, out_step);
    out[4 * out_step] = in[2 * step];
    out[5 * out_step] = in[step];
  }
  template <int n>
  static PYCONVOPT_INLINE void gradient(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 4);
    const Vec y0 = in[0], y1 = in[step], y2 = in[2 * step], y3 = in[3 * step];
    evaluate(y0 + y2 * s1, y1 + y3 * s1, y0 + y2 * s2, y1 + y3 * s2, out, out_step);
    out[4 * out_step] = y3;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) out[(5 + i) * out_step] = in[i * step];
  }

  // Four outputs of a forward pass; or eight of a data gradient, those of the middle tap first.
  template <int n>
  static PYCONVOPT_INLINE void output(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 4 || n == 8);
    const Vec sum1 = in[0] + in[step], difference1 = in[0] - in[step];
    const Vec sum2 = in[2 * step] + in[3 * step], difference2 = in[2 * step] - in[3 * step];
    const Vec outer[4] = {sum1 + sum2, difference1 * p1 + difference2 * p2, sum1 * s1 + sum2 * s2,
                          difference1 * (s1 * p1) + difference2 * (s2 * p2) + in[4 * step]};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec middle = in[(5 + i) * step];
      if constexpr (n == 4) out[i * out_step] = outer[i] + middle;
      else {
        out[2 * i * out_step] = middle;
        out[(2 * i + 1) * out_step] = outer[i];
      }
    }
  }
  template <int n>
  static PYCONVOPT_INLINE void weights(const Vec* in, int step, Vec* out, int out_step) {
    static_assert(n == 3);
    out[0] = (in[0] + in[step]) + (in[2 * step] + in[3 * step]);
    out[out_step] = in[5 * step];
    out[2 * out_step] = (in[0] - in[step]) * p1 + (in[2 * step] - in[3 * step]) * p2 + in[4 * step];
  }

 private:
  // even + odd · point at ±p1 and ±p2, whose values may differ, scaled by 1 / Π (point - other points).
  static PYCONVOPT_INLINE void evaluate(Vec even1, Vec odd1, Vec even2, Vec odd2, Vec* out, int out_step) {
    const Vec a1 = odd1 * scale1, b1 = even1 * (scale1 / p1);
    const Vec a2 = odd2 * scale2, b2 = even2 * (scale2 / p2);
    out[0] = a1 + b1;
    out[out_step] = a1 - b1;
    out[2 * out_step] = a2 + b2;
    out[3 * out_step] = a2 - b2;
  }
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA::winograd
