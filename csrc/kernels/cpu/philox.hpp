// Philox4x32-10 in vectors, and the multipliers of dropout made from it.  (The mapping: dropout.hpp.)
//
// A round multiplies two of the four words to 64 bits. x86 multiplies the low halves of 64-bit lanes,
// so the words are held one in each 64-bit lane, in two sets: `even` for the counters of the even
// 32-bit lanes, `odd` for those of the odd ones. High halves carry whatever the multiplication leaves;
// nothing reads them until the two sets are put together. That is 12 instructions a round for 16
// counters with AVX-512, against 17 with words packed in 32-bit lanes.
#pragma once
#include "../dropout.hpp"
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

using WideVec = uint64_t __attribute__((vector_size(4 * lanes)));

// The product of the low halves of 64-bit lanes.
PYCONVOPT_INLINE WideVec multiply_low_halves(WideVec a, WideVec b) {
#if defined(__AVX512F__)
  return WideVec(_mm512_maskz_mul_epu32(0xff, __m512i(a), __m512i(b)));  // see sqrt in vec.hpp
#elif defined(__AVX2__)
  return WideVec(_mm256_mul_epu32(__m256i(a), __m256i(b)));
#elif defined(__x86_64__)
  return WideVec(_mm_mul_epu32(__m128i(a), __m128i(b)));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

inline constexpr int dropout_group = 64;  // elements of 16 neighbouring counters

class DropoutStream {
 public:
  explicit DropoutStream(const DropoutKey& key)
      : offset_low_(uint32_t(key.offset)),
        offset_high_(uint32_t(key.offset >> 32)),
        threshold_(key.threshold()),
        scale_(key.scale()) {
    uint32_t low = uint32_t(key.seed), high = uint32_t(key.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      keys_[round][0] = low;
      keys_[round][1] = high;
      low += 0x9E3779B9u;  // the golden ratio and √3 − 1
      high += 0xBB67AE85u;
    }
  }

  // multiplier(j, i) for the four runs j and the vectors i of 16 elements of group number `group` is
  // handed to use(j, i, multiplier).
  template <class Use>
  PYCONVOPT_INLINE void group(int64_t group, Use use) const {
#pragma GCC unroll 4
    for (int i = 0; i < 16 / lanes; ++i) {
      const uint64_t first = 16 * uint64_t(group) + uint64_t(i * lanes);
      WideVec counter;
#pragma GCC unroll 16
      for (int l = 0; l < lanes / 2; ++l) counter[l] = uint64_t(2 * l);
      counter += first;
      WideVec even[4], odd[4];
      block(counter, even);
      block(counter + 1, odd);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const UVec word = UVec((even[j] & 0xffffffffu) | (odd[j] << 32));
        const IVec keep = IVec(word >> 8) >= threshold_;
        use(j, i, keep ? broadcast(scale_) : Vec{});
      }
    }
  }

  // Multipliers of the elements begin..begin+count: returns where the first one lies in `buffer`,
  // which holds count + 2 · dropout_group floats.
  const float* fill(int64_t begin, int64_t count, float* buffer) const {
    const int64_t first = begin / dropout_group, last = (begin + count + dropout_group - 1) / dropout_group;
    for (int64_t g = first; g < last; ++g) {
      float* out = buffer + (g - first) * dropout_group;
      group(g, [&](int j, int i, Vec multiplier)
                   __attribute__((always_inline)) { store(out + 16 * j + i * lanes, multiplier); });
    }
    return buffer + (begin - first * dropout_group);
  }

 private:
  PYCONVOPT_INLINE void block(WideVec counter, WideVec c[4]) const {
    const WideVec m0 = WideVec{} + 0xD2511F53u, m1 = WideVec{} + 0xCD9E8D57u;
    c[0] = counter;
    c[1] = counter >> 32;
    c[2] = WideVec{} + offset_low_;
    c[3] = WideVec{} + offset_high_;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const WideVec product0 = multiply_low_halves(c[0], m0), product1 = multiply_low_halves(c[2], m1);
      c[0] = (product1 >> 32) ^ c[1] ^ (WideVec{} + keys_[round][0]);
      c[2] = (product0 >> 32) ^ c[3] ^ (WideVec{} + keys_[round][1]);
      c[1] = product1;
      c[3] = product0;
    }
  }

  uint64_t keys_[10][2];  // of every round, in memory: broadcast by the load that uses them
  uint64_t offset_low_, offset_high_;
  int32_t threshold_;
  float scale_;
};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
