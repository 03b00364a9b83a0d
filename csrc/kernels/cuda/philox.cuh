// Philox4x32-10 and the multipliers of dropout: the mask of dropout.hpp, bit for bit.
//
//   element = 64·g + 16·j + l  takes word j of Philox(counter = (16·g + l, offset), key = seed).
//
// A thread that holds four neighbouring elements, 64·g + 16·j + 4·q + (0..3), needs word j of four
// counters; the threads with the same g and q and the other three j need the other words of the same
// counters. So each draws one counter, and four threads, 4 lanes apart, exchange words: a 4×4 transpose
// in two rounds of shuffles. One Philox block serves four elements, with loads of four neighbours.
#pragma once
#include <cmath>

#include "device.cuh"

namespace pyconvopt::cuda {

struct DropoutMask {
  uint32_t seed_low, seed_high, offset_low, offset_high;
  uint32_t threshold;  // kept if and only if (word >> 8) >= threshold
  float scale;

  explicit DropoutMask(const PyconvoptDropoutKey& key)
      : seed_low(uint32_t(key.seed)),
        seed_high(uint32_t(key.seed >> 32)),
        offset_low(uint32_t(key.offset)),
        offset_high(uint32_t(key.offset >> 32)),
        threshold(uint32_t(std::ceil(key.probability * 16777216.0))),
        scale(key.probability < 1 ? float(1 / (1 - key.probability)) : 0.0f) {}

  __device__ __forceinline__ void block(uint64_t counter, uint32_t (&c)[4]) const {
    c[0] = uint32_t(counter);
    c[1] = uint32_t(counter >> 32);
    c[2] = offset_low;
    c[3] = offset_high;
    uint32_t low = seed_low, high = seed_high;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t(0xD2511F53u) * c[0], product1 = uint64_t(0xCD9E8D57u) * c[2];
      c[0] = uint32_t(product1 >> 32) ^ c[1] ^ low;
      c[2] = uint32_t(product0 >> 32) ^ c[3] ^ high;
      c[1] = uint32_t(product1);
      c[3] = uint32_t(product0);
      low += 0x9E3779B9u;
      high += 0xBB67AE85u;
    }
  }

  __device__ __forceinline__ float multiplier(uint32_t word) const { return (word >> 8) >= threshold ? scale : 0.0f; }

  // Of one element.
  __device__ __forceinline__ float at(uint64_t element) const {
    uint32_t words[4];
    block(element / 64 * 16 + element % 16, words);
    const uint32_t run = uint32_t(element / 16 % 4);
    const uint32_t low = run & 1 ? words[1] : words[0], high = run & 1 ? words[3] : words[2];
    return multiplier(run & 2 ? high : low);
  }

  // Of the elements first .. first + 3. The whole warp calls this, lane i with its first element at
  // 4 · i from that of lane 0, which is a multiple of 64.
  __device__ __forceinline__ void four(uint64_t first, float (&multipliers)[4]) const {
    const uint32_t run = uint32_t(first / 16 % 4), quarter = uint32_t(first / 4 % 4);
    uint32_t words[4];
    block(first / 64 * 16 + 4 * quarter + run, words);
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2) {
      const bool upper = run & bit;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k & bit) continue;
        const uint32_t received = __shfl_xor_sync(all_lanes, upper ? words[k] : words[k | bit], 4 * bit);
        if (upper) words[k] = received;
        else words[k | bit] = received;
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) multipliers[k] = multiplier(words[k]);
  }
};

inline bool valid(const PyconvoptDropoutKey& key) { return key.probability >= 0 && key.probability <= 1; }

}  // namespace pyconvopt::cuda
