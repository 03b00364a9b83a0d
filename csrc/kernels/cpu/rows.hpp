// Passes over `rows` × `channels`: how they are split over threads, and sums over the rows.
//
// Channels are the vector axis, so a sum over rows needs no shuffles. Rows are split in chunks whose
// size depends on the shape alone; each chunk leaves its sums in a line of its own, and these are
// added in order. So the result has the same bits for any number of threads.
//
// Inside a chunk sums of `flush_rows` rows are taken in single precision and then added up in double:
// the error is that of adding 256 numbers.
#pragma once
#include <omp.h>

#include "../arena.hpp"
#include "vec.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {

inline constexpr int64_t row_block = 4, flush_rows = 256;

// Blocks of rows share what they load a channel (a fifth to a third faster in the cache) but touch
// lines out of their order, which the prefetcher does not follow (a quarter to a half slower from
// memory): they are for maps of up to 4 MB.
PYCONVOPT_INLINE constexpr bool in_blocks(int64_t floats) { return floats <= (int64_t(1) << 20); }

// Work of `items` (rows, or lines of rows) in chunks of at least 16384 floats, at most `most_chunks`.
// Less than one chunk is not worth waking a second thread for.
inline constexpr int64_t most_chunks = 256;
struct Chunks {
  int64_t items, each, count;
  Chunks(int64_t items, int64_t floats_each, int64_t multiple = row_block) : items(items) {
    const int64_t enough = (16384 + floats_each - 1) / greatest(floats_each, 1);
    each = round_up(greatest(greatest(enough, (items + most_chunks - 1) / most_chunks), 1), multiple);
    count = (items + each - 1) / each;
  }
  int64_t begin(int64_t chunk) const { return chunk * each; }
  int64_t end(int64_t chunk) const { return least(items, (chunk + 1) * each); }
};

// body(chunk, thread) for every chunk; a thread takes neighbouring chunks. `backwards` starts where
// the pass before ended: what that one read last is still in the cache.
template <class Body>
inline void for_each_chunk(int64_t count, Body body, bool backwards = false) {
  const int threads = int(least(omp_get_max_threads(), greatest(count, 1)));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const FlushDenormals flush;
    const int64_t team = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t begin = count * thread / team, end = count * (thread + 1) / team;
    for (int64_t i = begin; i < end; ++i) body(backwards ? begin + end - 1 - i : i, thread);
  }
}

// body(constants, row, c, part) for rows × whole or partial vectors of channels; constants(c, part)
// loads once what `row_block` rows share, if `blocks`.
template <class Constants, class Body>
PYCONVOPT_INLINE void for_each_row_vector(bool blocks, int64_t begin, int64_t end, int64_t channels,
                                          Constants constants, Body body) {
  int64_t row = begin;
  for (; blocks && row + row_block <= end; row += row_block)
    for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
      const auto shared = constants(c, part);
#pragma GCC unroll 8
      for (int64_t i = 0; i < row_block; ++i) body(shared, row + i, c, part);
    });
  for (; row < end; ++row)
    for_each_vector(
        channels, [&](int64_t c, auto part) __attribute__((always_inline)) { body(constants(c, part), row, c, part); });
}

// sums[q][stride] += Σ over the rows, one after the other; term(row, c, part, s) adds to the vectors s[0..quantities).
template <int quantities, class Term>
PYCONVOPT_INLINE void sum_rows(bool blocks, int64_t begin, int64_t end, int64_t channels, float* sums, int64_t stride,
                               Term term) {
  int64_t row = begin;
  const auto block = [&]<int rows>() __attribute__((always_inline)) {
    for_each_vector(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
      Vec s[quantities];
#pragma GCC unroll 4
      for (int q = 0; q < quantities; ++q) s[q] = load(sums + q * stride + c);  // lines are padded to whole vectors
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) term(row + i, c, part, s);
#pragma GCC unroll 4
      for (int q = 0; q < quantities; ++q) store(sums + q * stride + c, s[q]);
    });
  };
  for (; blocks && row + row_block <= end; row += row_block) block.template operator()<int(row_block)>();
  for (; row < end; ++row) block.template operator()<1>();
}

// Sums per channel of all chunks: a line of floats a thread, a line of doubles a chunk.
template <int quantities>
class ChunkSums {
 public:
  ChunkSums(int64_t chunks, int64_t channels)
      : chunks_(chunks),
        stride_(round_up(channels, 16)),
        threads_(int(least(omp_get_max_threads(), greatest(chunks, 1)))),
        space_(Workspace::bytes_for(quantities * stride_ * (threads_ + 2 * greatest(chunks, 1)))) {
    single_ = space_.floats(quantities * stride_ * threads_);
    double_ = reinterpret_cast<double*>(space_.floats(2 * quantities * stride_ * greatest(chunks, 1)));
  }
  int64_t stride() const { return stride_; }
  float* single(int64_t thread) { return single_ + thread * quantities * stride_; }
  double* line(int64_t chunk, int q = 0) { return double_ + (chunk * quantities + q) * stride_; }

  void clear_single(int64_t thread) {
    float* sums = single(thread);
    for (int64_t i = 0; i < quantities * stride_; ++i) sums[i] = 0;
  }
  void clear(int64_t chunk) {
    double* sums = line(chunk);
    for (int64_t i = 0; i < quantities * stride_; ++i) sums[i] = 0;
  }
  // Adds the thread's sums to those of the chunk, and clears them.
  void flush(int64_t chunk, int64_t thread) {
    float* from = single(thread);
    double* to = line(chunk);
    for (int64_t i = 0; i < quantities * stride_; ++i) {
      to[i] += from[i];
      from[i] = 0;
    }
  }
  // Leaves the sum of all chunks in the line of the first, which exists even without chunks.
  double* total(int q = 0) {
    if (chunks_ == 0) clear(0);
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      double *to = line(0), *from = line(chunk);
      for (int64_t i = 0; i < quantities * stride_; ++i) to[i] += from[i];
    }
    chunks_ = 1;
    return line(0, q);
  }

 private:
  int64_t chunks_, stride_;
  int threads_;
  Workspace space_;
  float* single_;
  double* double_;
};

// One chunk of sum_rows, flushed to double every `flush_rows` rows.
template <int quantities, class Term>
PYCONVOPT_INLINE void sum_chunk(bool blocks, ChunkSums<quantities>& sums, int64_t chunk, int64_t thread, int64_t begin,
                                int64_t end, int64_t channels, Term term) {
  sums.clear_single(thread);
  sums.clear(chunk);
  for (int64_t row = begin; row < end; row += flush_rows) {
    sum_rows<quantities>(blocks, row, least(end, row + flush_rows), channels, sums.single(thread), sums.stride(), term);
    sums.flush(chunk, thread);
  }
}

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
