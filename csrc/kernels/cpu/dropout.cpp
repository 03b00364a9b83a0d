// Dropout of elements or of whole channels: output = input · multiplier, drawn in registers.
#include "../dropout.hpp"

#include "philox.hpp"
#include "rows.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace {

void drop_elements(const Dropout& p) {
  const DropoutStream stream(p.key);
  const Chunks chunks(p.size, 1, dropout_group);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
    int64_t i = chunks.begin(chunk);
    const int64_t end = chunks.end(chunk);
    for (; i + dropout_group <= end; i += dropout_group)
      stream.group(i / dropout_group, [&](int j, int n, Vec multiplier) __attribute__((always_inline)) {
        const int64_t at = i + 16 * j + n * lanes;
        store(p.output + at, load(p.input + at) * multiplier);
      });
    if (i < end) {
      float buffer[3 * dropout_group];
      const float* multiplier = stream.fill(i, end - i, buffer);
      for_each_vector(end - i, [&](int64_t at, auto part) {
        store(p.output + i + at, load(p.input + i + at, part) * load(multiplier + at, part), part);
      });
    }
  });
}

void drop_channels(const Dropout& p) {
  const int64_t images = p.size / (p.pixels * p.channels);
  Workspace space(Workspace::bytes_for(images * p.channels + 2 * dropout_group));
  const float* multipliers =
      DropoutStream(p.key).fill(0, images * p.channels, space.floats(images * p.channels + 2 * dropout_group));
  const Chunks chunks(images * p.pixels, p.channels);
  for_each_chunk(chunks.count, [&](int64_t chunk, int64_t) {
    for (int64_t row = chunks.begin(chunk); row < chunks.end(chunk);) {
      const int64_t image = row / p.pixels, end = least(chunks.end(chunk), (image + 1) * p.pixels);
      const float* multiplier = multipliers + image * p.channels;
      for_each_row_vector(
          in_blocks(p.size), row, end, p.channels, [&](int64_t c, auto part) { return load(multiplier + c, part); },
          [&](Vec factor, int64_t r, int64_t c, auto part) __attribute__((always_inline)) {
            const int64_t at = r * p.channels + c;
            store(p.output + at, load(p.input + at, part) * factor, part);
          });
      row = end;
    }
  });
}

void dropout(const Dropout& p) {
  if (p.size == 0) return;
  if (p.channels > 0) drop_channels(p);
  else drop_elements(p);
}

bool applies(const Dropout&) { return true; }

}  // namespace

extern const Kernel<Dropout> philox_dropout;
const Kernel<Dropout> philox_dropout{"philox", "the mask is drawn in registers and never stored", applies, dropout};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
