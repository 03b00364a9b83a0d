// What a training loop does between two steps: it gathers the samples of a batch, and counts right answers.
#pragma once
#include <cstdint>

namespace pyconvopt {

// output[i] = values of sample rows[i], as floats; label_output[i] = its label's bytes.
struct Gather {
  int64_t size;          // values of a sample
  const float* floats;   // the samples (count, size), either as floats
  const uint8_t* bytes;  // or as bytes, the other is null
  int64_t label_bytes;   // of a sample; 0 without labels
  const char* labels;
  int64_t batch;
  const int64_t* rows;
  float* output;
  char* label_output;
};

void run(const Gather& gather);

// How many rows of a matrix have their largest value, the first of several, at the column that is their label.
// A NaN counts as larger than any number.
int64_t right_answers(const float* outputs, int64_t rows, int64_t columns, const int64_t* labels);

}  // namespace pyconvopt
