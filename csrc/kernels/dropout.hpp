// Dropout: each element is kept with probability 1 − p and then scaled by 1/(1 − p), else zero.
//
// The mask is a pure function of (seed, offset, element), made by Philox4x32-10 (Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011). It depends on no thread count and no
// instruction set, and is made again in the backward pass instead of being stored.
//
//   element = 64·g + 16·j + l, with j in 0..3 and l in 0..15, takes word j of
//   Philox(counter = (16·g + l, offset), key = seed),      counter halves and key of 64 bits,
//   and is kept if and only if (word >> 8) · 2⁻²⁴ >= p.
//
// So 16 neighbouring counters give four runs of 16 neighbouring elements, and 4, 8 or 16 lanes need
// no shuffles. A call takes a fresh (seed, offset); two offsets never share a counter. A GPU kernel
// uses the same mapping: one thread a counter, which serves four elements 16 apart.
#pragma once
#include "kernel.hpp"

namespace pyconvopt {

struct DropoutKey {
  double probability = 0;  // of dropping; 0 keeps all, 1 drops all
  uint64_t seed = 0, offset = 0;

  // Kept if and only if (word >> 8) >= threshold().
  int32_t threshold() const;
  // What a kept element is multiplied by; a dropped one by 0, so that NaN and infinity stay NaN.
  float scale() const;
};

// output = input · multiplier(element); forward and backward are this same function. `channels` is
// 0 for dropout of elements; else whole channels are dropped: the input is batch × pixels × channels,
// and `element` is image · channels + channel.
struct Dropout {
  int64_t size;
  const float* input;
  DropoutKey key;
  float* output = nullptr;
  int64_t pixels = 1, channels = 0;
};

// One Philox4x32-10 block: the plain version, which the vectorised one is tested against.
struct PhiloxBlock {
  uint32_t word[4];
};
PhiloxBlock philox4x32(PhiloxBlock counter, uint32_t key_low, uint32_t key_high);

// What one element is multiplied by, drawn with it.
float dropout_multiplier(const DropoutKey& key, uint64_t element);

}  // namespace pyconvopt
