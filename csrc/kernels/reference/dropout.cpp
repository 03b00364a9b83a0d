// Dropout and Philox4x32-10 as plainly as they can be written.
#include "../dropout.hpp"

#include <cmath>

#include "reference.hpp"

namespace pyconvopt {

int32_t DropoutKey::threshold() const { return int32_t(std::ceil(probability * 16777216.0)); }
float DropoutKey::scale() const { return probability < 1 ? float(1 / (1 - probability)) : 0.0f; }

PhiloxBlock philox4x32(PhiloxBlock counter, uint32_t key_low, uint32_t key_high) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t(0xD2511F53u) * counter.word[0];
    const uint64_t product1 = uint64_t(0xCD9E8D57u) * counter.word[2];
    counter = {{uint32_t(product1 >> 32) ^ counter.word[1] ^ key_low, uint32_t(product1),
                uint32_t(product0 >> 32) ^ counter.word[3] ^ key_high, uint32_t(product0)}};
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}

float dropout_multiplier(const DropoutKey& key, uint64_t element) {
  const uint64_t count = element / 64 * 16 + element % 16;
  const PhiloxBlock block =
      philox4x32({{uint32_t(count), uint32_t(count >> 32), uint32_t(key.offset), uint32_t(key.offset >> 32)}},
                 uint32_t(key.seed), uint32_t(key.seed >> 32));
  const double uniform = (block.word[element / 16 % 4] >> 8) * 0x1p-24;
  return uniform >= key.probability ? key.scale() : 0.0f;
}

namespace {

void dropout(const Dropout& p) {
  for (int64_t i = 0; i < p.size; ++i) {
    const int64_t element = p.channels ? i / (p.pixels * p.channels) * p.channels + i % p.channels : i;
    p.output[i] = p.input[i] * dropout_multiplier(p.key, uint64_t(element));
  }
}

}  // namespace

extern const Kernel<Dropout> reference_dropout;
const Kernel<Dropout> reference_dropout{"reference", reference::last_resort, reference::takes_all, dropout};

}  // namespace pyconvopt
