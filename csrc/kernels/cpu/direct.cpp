// Direct convolution, forward and data gradient.  (The method: direct.hpp.)
//
// The data gradient of a strided convolution falls into stride × stride phases: the pixels of the
// input at the same offset modulo the stride meet the same taps, and only those. Each phase is an
// ordinary product over its taps; no zeros are inserted and nothing is multiplied by them.
#include "direct.hpp"

#include <omp.h>

#include "../arena.hpp"
#include "../processor.hpp"
#include "activated.hpp"
#include "moments.hpp"
#include "pool2x2.hpp"
#include "reading.hpp"

namespace pyconvopt::cpu::PYCONVOPT_ISA {
namespace direct {
namespace {

inline constexpr int64_t most_rows = 8 * product_rows;  // pixels that a thread works on at once
inline constexpr int64_t most_steps = 512;              // and factors of their sums: what stays near

// One dimension of a result's pixels: `count` of them from `first`, `step` apart; and of the map they are made from,
// `size` long, where the first pixel lies at 0 and each further one `source_step` behind it, before a tap's offset.
struct Line {
  int64_t first, step, count;
  int64_t size, source_step;
  int64_t at(int64_t i) const { return first + i * step; }
};

struct Offset {
  int64_t row, column;
};

// A product over pixels of a result.
struct Job {
  int64_t batch;
  Line rows, columns;
  int64_t taps;
  const Offset* offset;  // of each tap
  const float* packed;   // W[panel][tap][inner][panel width], these taps only
  int64_t inner, outer;
  const float* source;
  int64_t source_channels;
  const float* zeros;  // for pixels outside the source
  const float *bias, *residual;
  Activation activation;
  float* result;
  int64_t result_height, result_width, result_channels;
  bool pointwise;  // all sources lie one after the other, and so do the results
  const Reading& reading;
  int64_t first_channel;  // of the source, in the map that `reading` reads
  // The result's pixels from each one on that no job writes, and that are zeros: down and to the right.
  int64_t cell_height = 1, cell_width = 1;
  // The pieces' statistics, of this group's first channel; null: none are wanted. A piece is a block.
  float* moments = nullptr;

  int64_t pixels() const { return batch * rows.count * columns.count; }
  Place place(int64_t pixel) const { return Place::number(pixel, rows.count, columns.count); }
  float* target(const Place& pixel) const {
    return result + ((pixel.image * result_height + rows.at(pixel.row)) * result_width + columns.at(pixel.column)) *
                        result_channels;
  }
  // Where the inner channels lie that a pixel meets at a tap.
  const float* source_of(const Place& pixel, const Offset& tap) const {
    const int64_t y = pixel.row * rows.source_step + tap.row, x = pixel.column * columns.source_step + tap.column;
    if (y < 0 || y >= rows.size || x < 0 || x >= columns.size) return zeros;
    return source + ((pixel.image * rows.size + y) * columns.size + x) * source_channels;
  }
  int64_t steps() const { return taps * inner; }

  // Whether the weights, which a second-level cache keeps, are read from there for every few pixels, and the map and
  // the result are gone through once. Else each panel of them is read for all pixels of a block. With 12 rows to share
  // what a step reads of the weights the first is the faster.
  bool pixels_first() const { return vector_registers == 32 && !weights_weigh_more(); }
  // Whether they are not kept there, or outweigh the pixels.
  bool weights_weigh_more() const {
    return (pixels() < outer && outer >= 4 * panel) ||
           outer * steps() * int64_t(sizeof(float)) > second_level_cache() / 2;
  }
  // Whether both maps stay in the second-level caches: a thread that takes the same part of each finds in its own what
  // it wrote as another layer's result.
  bool stays() const {
    const int64_t floats = pixels() * (source_channels + result_channels);
    return floats * int64_t(sizeof(float)) <= omp_get_max_threads() * int64_t(second_level_cache()) / 2;
  }
  // Whether a pixel's steps are read where they lie. Rows of the map that are a multiple of 4 KiB apart all meet in the
  // same set of a first-level cache, of 2 KiB in two; there they should not stay for long.
  bool in_place() const {
    if (reading.changes()) return false;
    if (!pointwise || source_channels % 512) return pointwise;
    return pixels_first() && (source_channels % 1024 || first_level_ways() >= product_rows);
  }
};

// What is fetched while a sum is taken, `bytes` of it a step; or nothing.
struct Ahead {
  const char* at = nullptr;
  int64_t bytes = 0;
};

// target[row][0..left) = start + Σ_s a[row·lda + s] · b[s], or added to what is there already; `residual`
// lies as far from the residual as the target from the result. `piece` without a line: no statistics are wanted.
template <int rows, int vectors, bool fetch>
PYCONVOPT_INLINE void tile(const float* a, int64_t lda, const float* b, int64_t steps, Ahead ahead, const Vec* start,
                           bool add, const float* residual, const float* result, Activation activation,
                           float* const* target, int64_t k, int64_t left, const Piece& piece, int64_t channels) {
  Vec sum[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = add ? load_channels(target[r] + k + v * lanes, left - v * lanes) : start[v];
  constexpr int pointers = (rows + 2) / 3;
  const float* from[pointers];  // every third row's next element, if something is fetched
#pragma GCC unroll 4
  for (int i = 0; i < pointers; ++i) from[i] = a + 3 * i * lda;
  for (int64_t s = 0; s < steps; ++s) {
    Vec factor[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) factor[v] = load(b + s * panel + v * lanes);
    if constexpr (fetch) {
      __builtin_prefetch(ahead.at);
      ahead.at += ahead.bytes;
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Vec value = broadcast(fetch ? from[r / 3][r % 3 * lda] : a[r * lda + s]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[r][v] += value * factor[v];
    }
    if constexpr (fetch)
#pragma GCC unroll 4
      for (int i = 0; i < pointers; ++i)
        // Kept from the compiler, which would spend a register on each row and have none left for `ahead`.
        asm("" : "+r"(++from[i]));
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      float* to = target[r] + k + v * lanes;
      if (residual) sum[r][v] += load_channels(residual + (to - result), left - v * lanes);
      store_channels(to, activated(activation, sum[r][v]), left - v * lanes);
    }
  if (!piece.line) return;
#pragma GCC unroll 2
  for (int v = 0; v < vectors; ++v) {
    Vec values[rows];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) values[r] = sum[r][v];
    add_moments(values, rows, piece, channels, k + v * lanes, left - v * lanes);
  }
}

// Output channels, in whole panels.
struct Channels {
  int64_t first, end;
};

// The steps s0 .. s0+steps of some pixels' sums. bring(r, n): where those of n pixels from r on lie, each lda behind
// the one before, until it is called again. `map`: where pixel 0 lies in memory, if the others lie behind it and are to
// be fetched from there; or null.
template <class Bring>
PYCONVOPT_INLINE void multiply(const Job& job, Channels part, Bring bring, int64_t lda, int64_t rows, int64_t s0,
                               int64_t steps, float* const* targets, const float* map, float* moments) {
  const bool add = s0 > 0, last = s0 + steps == job.steps();
  const Activation activation = last ? job.activation : Activation::none;
  const float* residual = last ? job.residual : nullptr;
  const auto weights = [&](int64_t k, int64_t s) { return job.packed + k * job.steps() + s * panel; };
  const auto product = [&]<bool fetch>(const float* from, int64_t r, int64_t n, int64_t k, Ahead ahead)
                           __attribute__((always_inline)) {
                             const float* b = weights(k, s0);
                             const int64_t left = least(panel, job.outer - k);
                             Vec start[2] = {};
                             if (job.bias) {
                               start[0] = load_channels(job.bias + k, left);
                               if (left > lanes) start[1] = load_channels(job.bias + k + lanes, left - lanes);
                             }
                             with_rows<product_rows>(int(n), [&]<int count>() {
                               const Piece piece{last ? moments : nullptr, r};
                               if (left > lanes)
                                 tile<count, 2, fetch>(from, lda, b, steps, ahead, start, add, residual, job.result,
                                                       activation, targets + r, k, left, piece, job.result_channels);
                               else
                                 tile<count, 1, fetch>(from, lda, b, steps, ahead, start, add, residual, job.result,
                                                       activation, targets + r, k, left, piece, job.result_channels);
                             });
                           };
  const auto fetch_targets = [&](int64_t r, int64_t k) __attribute__((always_inline)) {
    for (int64_t i = r; i < least(rows, r + product_rows); ++i)
      for (int64_t c = 0; c < least(panel, job.outer - k); c += 16) __builtin_prefetch(targets[i] + k + c, 1);
  };
  const auto [shares, each] = Shares(rows);
  if (job.pixels_first()) {
    const int64_t all_steps = (part.end - part.first + panel - 1) / panel * steps;
    const int64_t bytes = (each * job.source_channels * int64_t(sizeof(float)) + all_steps - 1) / all_steps;
    for (int64_t r = 0; r < rows; r += each) {
      const int64_t n = least(each, rows - r);
      const float* a = bring(r, n);
      const char* next =
          map ? reinterpret_cast<const char*>(map + least(rows, r + each) * job.source_channels) : nullptr;
      for (int64_t k = part.first; k < part.end; k += panel, next += steps * bytes) {
        const bool more = k + panel < part.end;
        fetch_targets(more ? r : r + each, more ? k + panel : part.first);
        if (map) product.template operator()<true>(a, r, n, k, {next, bytes});
        else product.template operator()<false>(a, r, n, k, {});
      }
    }
    return;
  }
  const float* a = bring(0, rows);
  // Each share fetches its share of the weights that come next, if these are far away. (With 16 registers the loop has
  // none left for that.)
  const bool heavy = vector_registers == 32 && job.weights_weigh_more();
  for (int64_t k = part.first; k < part.end; k += panel) {
    const bool more = k + panel < part.end;
    const char* next = reinterpret_cast<const char*>(more ? weights(k + panel, s0) : weights(part.first, s0 + steps));
    const int64_t bytes = more || !last ? panel * int64_t(sizeof(float)) / shares : 0;
    for (int64_t r = 0; r < rows; r += each, next += steps * bytes) {
      const int64_t after = least(rows, r + each), end = least(rows, after + each);
      if (map == a && k == part.first)
        for (const float* line = a + after * lda; line < a + end * lda; line += 16) __builtin_prefetch(line);
      fetch_targets(after, k);
      if (heavy) product.template operator()<true>(a + r * lda, r, after - r, k, {next, bytes});
      else product.template operator()<false>(a + r * lda, r, after - r, k, {});
    }
  }
}

// Some pixels' steps, their sources copied one after the other.
void gather(const Job& job, const Place* pixels, int64_t rows, int64_t tap, int64_t taps, int64_t c, int64_t count,
            float* copy, int64_t lda) {
  job.reading.with([&]<class Way>(const Way& way) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t t = 0; t < taps; ++t) {
        const float* from = job.source_of(pixels[i], job.offset[tap + t]);
        float* to = copy + i * lda + t * count;
        for_each_vector(count, [&](int64_t at, auto part) __attribute__((always_inline)) {
          const Vec x = load(from + c + at, part);
          const bool outside = Way::changes && from == job.zeros;
          store(to + at, outside ? x : way.at(job.first_channel + c + at)(x), part);
        });
      }
  });
}

// From one pixel's copy to the next: a cache line more than the steps, which would all meet in the same sets.
int64_t copy_step(int64_t steps) { return steps + 16; }

// The pixels of a cell but its first one.
void clear_cell(const Job& job, const Place& pixel, int64_t first, int64_t count) {
  const int64_t top = job.rows.at(pixel.row), left = job.columns.at(pixel.column);
  float* corner = job.target(pixel) + first;
  for (int64_t y = 0; y < least(job.cell_height, job.result_height - top); ++y)
    for (int64_t x = y == 0; x < least(job.cell_width, job.result_width - left); ++x)
      for_each_vector(count, [&](int64_t k, auto vector) __attribute__((always_inline)) {
        store(corner + (y * job.result_width + x) * job.result_channels + k, Vec{}, vector);
      });
}

void run_block(const Job& job, Channels part, int64_t first, int64_t rows, bool in_place, float* copy,
               int64_t steps_at_once, float* moments) {
  Place pixel = job.place(first), pixels[most_rows];
  float* targets[most_rows];
  for (int64_t i = 0; i < rows; ++i, pixel.advance(job.rows.count, job.columns.count)) {
    pixels[i] = pixel;
    targets[i] = job.pointwise ? job.result + (first + i) * job.result_channels : job.target(pixel);
  }
  const int64_t own = least(part.end, job.outer) - part.first;
  // Several whole taps at a time, or a part of one.
  const int64_t together = greatest(1, steps_at_once / job.inner), channels = least(job.inner, steps_at_once);
  const int64_t lda = copy_step(steps_at_once);
  for (int64_t tap = 0; tap < job.taps; tap += together)
    for (int64_t c = 0; c < job.inner; c += channels) {
      const int64_t taps = least(together, job.taps - tap), count = least(channels, job.inner - c);
      const int64_t s0 = tap * job.inner + c;
      const float* map = job.pointwise ? job.source + first * job.source_channels + c : nullptr;
      const auto bring = [&](int64_t r, int64_t n) -> const float* {
        if (in_place) return map + r * job.source_channels;
        gather(job, pixels + r, n, tap, taps, c, count, copy, lda);
        return copy;
      };
      multiply(job, part, bring, in_place ? job.source_channels : lda, rows, s0, taps * count, targets, map, moments);
    }
  if (job.taps == 0)
    for (int64_t i = 0; i < rows; ++i)
      for_each_vector(own, [&](int64_t k, auto vector) { store(targets[i] + part.first + k, Vec{}, vector); });
  if (job.cell_height > 1 || job.cell_width > 1)
    for (int64_t i = 0; i < rows; ++i) clear_cell(job, pixels[i], part.first, own);
}

// Pixels that a thread works on at once, with `parts` or more blocks if there are enough for these.
int64_t block_pixels(int64_t pixels, int64_t parts) {
  return greatest(product_rows, least(most_rows, pixels / parts / product_rows * product_rows));
}
int64_t piece_pixels(int64_t pixels) { return block_pixels(pixels, 8); }  // whatever the number of threads

// As many as possible, in equal blocks: each reads all weights anew.
int64_t most_pixels(int64_t pixels) {
  const int64_t blocks = (pixels + most_rows - 1) / most_rows;
  return round_up((pixels + blocks - 1) / blocks, product_rows);
}

// The same, and for each thread as many.
int64_t shared_pixels(int64_t pixels, int64_t threads) {
  const int64_t blocks = round_up((pixels + most_rows - 1) / most_rows, threads);
  return greatest(1, (pixels + blocks - 1) / blocks);
}

// All pixels of a job, in blocks over the threads; where there are few, and the weights weigh more, these are shared
// out instead.
void run_job(const Job& job) {
  const int threads = omp_get_max_threads();
  const int64_t pixels = job.pixels();
  const bool heavy = job.weights_weigh_more(), stays = job.stays();
  const int64_t each = job.moments ? piece_pixels(pixels)
                       : heavy     ? most_pixels(pixels)
                       : stays     ? shared_pixels(pixels, threads)
                                   : block_pixels(pixels, 4 * threads);
  const int64_t blocks = (pixels + each - 1) / each, line = moment_line(job.result_channels);
  const int64_t panels = (job.outer + panel - 1) / panel;
  const int64_t parts = heavy && blocks < 4 * threads ? least(panels, threads) : 1;
  const bool in_place = job.in_place();
  // Where weights come from afar sums are taken up again half as often.
  const int64_t steps = heavy ? 2 * most_steps : most_steps, copy_floats = in_place ? 0 : each * copy_step(steps);
  Workspace space(Workspace::bytes_for(threads * copy_floats));
  float* copies = space.floats(threads * copy_floats);
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    float* copy = copies + omp_get_thread_num() * copy_floats;
    const auto run = [&](int64_t item) {
      const int64_t i = item % blocks, part = item / blocks;
      const Channels channels{panels * part / parts * panel, panels * (part + 1) / parts * panel};
      run_block(job, channels, i * each, least(each, pixels - i * each), in_place, copy, steps,
                job.moments ? job.moments + i * line : nullptr);
    };
    if (parts > 1 || stays) {
#pragma omp for schedule(static)
      for (int64_t item = 0; item < parts * blocks; ++item) run(item);
    } else {  // in twos: a block ends with fetching the pixels of the next one
#pragma omp for schedule(dynamic, 2)
      for (int64_t item = 0; item < blocks; ++item) run(item);
    }
  }
}

// W of some taps of one group, or of all.
void pack(const WeightView& view, const int32_t* taps, int64_t count, float* packed) {
  WeightView chosen = view;
  chosen.taps = count;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t vector = 0; vector < 2 * view.panels(); ++vector)
    for (int64_t t = 0; t < count; ++t) {
      WeightView one = chosen;
      one.data = view.data + view.tap_offset(taps ? taps[t] : t);
      one.row = one.column = 0;
      pack_tap(one, vector, t, packed);
    }
}

WeightView view_of(const ConvForward& p) {
  const ConvShape& s = p.shape;
  return {p.weight,
          s.out_channels / s.groups,
          s.in_channels / s.groups,
          s.kernel_height * s.kernel_width,
          s.kernel_width,
          p.weight_strides.out_channel,
          p.weight_strides.in_channel,
          p.weight_strides.row,
          p.weight_strides.column};
}

int64_t packed_floats(const ConvForward& p) {
  const WeightView view = view_of(p);
  return p.shape.groups * view.panels() * view.panel_floats();
}

void pack_groups(const ConvForward& p, float* packed) {
  WeightView group = view_of(p);
  for (int64_t g = 0; g < p.shape.groups; ++g, packed += group.panels() * group.panel_floats()) {
    pack(group, nullptr, group.taps, packed);
    group.data += group.outer * group.outer_stride;
  }
}

int64_t output_pixels(const ConvShape& s) { return s.batch * s.out_height() * s.out_width(); }

int64_t moment_pieces(const ConvForward& p) {
  const int64_t pixels = output_pixels(p.shape), each = piece_pixels(pixels);
  return (pixels + each - 1) / each;
}

void forward_map(const ConvForward& p) {
  const ConvShape& s = p.shape;
  const WeightView view = view_of(p);
  const int64_t taps = view.taps, inner = view.inner, outer = view.outer, size = view.panels() * view.panel_floats();
  Workspace space(Workspace::bytes_for(p.prepared ? 0 : s.groups * size) + Workspace::bytes_for(inner) +
                  Workspace::bytes_for(4 * taps));
  float* own = space.floats(p.prepared ? 0 : s.groups * size);
  if (!p.prepared) pack_groups(p, own);
  const float* packed = p.prepared ? p.prepared : own;
  float* zeros = space.floats(inner);
  Offset* offsets = reinterpret_cast<Offset*>(space.floats(4 * taps));
  for (int64_t c = 0; c < inner; ++c) zeros[c] = 0;
  const Reading reading(p.norm, s.in_channels);
  for (int64_t t = 0; t < taps; ++t)
    offsets[t] = {t / s.kernel_width * s.dilation_height - s.padding_height,
                  t % s.kernel_width * s.dilation_width - s.padding_width};
  for (int64_t g = 0; g < s.groups; ++g)
    run_job({.batch = s.batch,
             .rows = {0, 1, s.out_height(), s.in_height, s.stride_height},
             .columns = {0, 1, s.out_width(), s.in_width, s.stride_width},
             .taps = taps,
             .offset = offsets,
             .packed = packed + g * size,
             .inner = inner,
             .outer = outer,
             .source = p.input + g * inner,
             .source_channels = s.in_channels,
             .zeros = zeros,
             .bias = p.bias ? p.bias + g * outer : nullptr,
             .residual = p.residual ? p.residual + g * outer : nullptr,
             .activation = p.activation,
             .result = p.output + g * outer,
             .result_height = s.out_height(),
             .result_width = s.out_width(),
             .result_channels = s.out_channels,
             .pointwise = pointwise(s),
             .reading = reading,
             .first_channel = g * inner,
             .moments = p.moments ? p.moments + g * outer : nullptr});
  if (!p.moments) return;
  const int64_t pixels = output_pixels(s), each = piece_pixels(pixels), line = moment_line(s.out_channels);
  for (int64_t i = 0; i * each < pixels; ++i) p.moments[i * line + line - 1] = float(least(each, pixels - i * each));
}

// Pools a small map that is in the cache.
void pool(const ConvForward& p, const float* map) {
  const MapShape size{p.shape.batch, p.shape.out_height(), p.shape.out_width(), p.shape.out_channels};
  const Windows windows(size);
  for (int64_t line = 0; line < windows.lines; ++line)
    for (int64_t x = 0; x < windows.width; ++x)
      for (int64_t c = 0; c < size.channels; c += lanes) {
        const float* window = map + windows.map_at(line) + 2 * x * size.channels + c;
        const int64_t left = size.channels - c, at = windows.pooled_at(line) + x * size.channels + c;
        Vec pixels[4];
        for (int i = 0; i < 4; ++i) pixels[i] = load_channels(window + windows.step(i), left);
        store_window(pixels, p.activation, p.output + at, p.argmax + at, left);
      }
}

void forward(const ConvForward& p) {
  if (!p.pool) return forward_map(p);
  const int64_t floats = output_pixels(p.shape) * p.shape.out_channels;
  Workspace space(Workspace::bytes_for(floats));
  ConvForward unpooled = p;
  unpooled.pool = false;
  unpooled.activation = Activation::none;
  unpooled.output = space.floats(floats);
  forward_map(unpooled);
  pool(p, unpooled.output);
}

void data_gradient(const ConvDataGradient& p) {
  const ConvShape& s = p.shape;
  const int64_t taps = s.kernel_height * s.kernel_width, inner = s.out_channels / s.groups,
                outer = s.in_channels / s.groups;
  const WeightView view{p.weight,
                        outer,
                        inner,
                        taps,
                        s.kernel_width,
                        p.weight_strides.in_channel,
                        p.weight_strides.out_channel,
                        p.weight_strides.row,
                        p.weight_strides.column};
  Workspace space(Workspace::bytes_for(view.panels() * view.panel_floats()) + Workspace::bytes_for(inner) +
                  Workspace::bytes_for(taps) + Workspace::bytes_for(4 * taps));
  float* packed = space.floats(view.panels() * view.panel_floats());
  float* zeros = space.floats(inner);
  int32_t* chosen = reinterpret_cast<int32_t*>(space.floats(taps));
  Offset* offsets = reinterpret_cast<Offset*>(space.floats(4 * taps));
  for (int64_t c = 0; c < inner; ++c) zeros[c] = 0;
  const Reading as_it_lies(nullptr, 0);
  // A 1×1 filter reads the first pixel of each cell alone: what makes this one clears the others.
  const bool cells = taps == 1 && s.padding_height % s.stride_height == 0 && s.padding_width % s.stride_width == 0;
  for (int64_t g = 0; g < s.groups; ++g) {
    WeightView group = view;
    group.data += g * inner * view.inner_stride;
    for (int64_t a = 0; a < (cells ? 1 : least(s.stride_height, s.in_height)); ++a)
      for (int64_t b = 0; b < (cells ? 1 : least(s.stride_width, s.in_width)); ++b) {
        // The taps through which an output pixel reads the phase's pixels, and which one it is for the first of them.
        int64_t count = 0;
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t down = a + s.padding_height - t / s.kernel_width * s.dilation_height;
          const int64_t right = b + s.padding_width - t % s.kernel_width * s.dilation_width;
          if (down % s.stride_height || right % s.stride_width) continue;
          offsets[count] = {down / s.stride_height, right / s.stride_width};
          chosen[count++] = int32_t(t);
        }
        pack(group, chosen, count, packed);
        run_job(
            {.batch = s.batch,
             .rows = {a, s.stride_height, (s.in_height - a + s.stride_height - 1) / s.stride_height, s.out_height(), 1},
             .columns = {b, s.stride_width, (s.in_width - b + s.stride_width - 1) / s.stride_width, s.out_width(), 1},
             .taps = count,
             .offset = offsets,
             .packed = packed,
             .inner = inner,
             .outer = outer,
             .source = p.output_gradient + g * inner,
             .source_channels = s.out_channels,
             .zeros = zeros,
             .bias = nullptr,
             .residual = nullptr,
             .activation = Activation::none,
             .result = p.input_gradient + g * outer,
             .result_height = s.in_height,
             .result_width = s.in_width,
             .result_channels = s.in_channels,
             .pointwise = pointwise(s),
             .reading = as_it_lies,
             .first_channel = 0,
             .cell_height = cells ? s.stride_height : 1,
             .cell_width = cells ? s.stride_width : 1});
      }
  }
}

// Groups so small that vectors would stay half empty are left to others.
bool takes_shape(const ConvShape& s) {
  return s.in_channels / s.groups >= 8 && s.out_channels / s.groups >= 8 && s.kernel_height * s.kernel_width <= 1024;
}
bool forward_applies(const ConvForward& p) {
  const bool few = p.keeps && output_pixels(p.shape) <= 2 * most_rows;
  if (p.pool && (!few || p.residual || p.activation > Activation::relu)) return false;
  return (!p.moments || is_plain(p)) && takes_shape(p.shape);
}
bool data_gradient_applies(const ConvDataGradient& p) { return !p.argmax && takes_shape(p.shape); }

}  // namespace
}  // namespace direct

constexpr const char* why = "direct: products of a few dozen pixels at a time, brought into the cache";
extern const Kernel<ConvForward> direct_forward;
const Kernel<ConvForward> direct_forward{"direct",
                                         why,
                                         direct::forward_applies,
                                         direct::forward,
                                         direct::packed_floats,
                                         direct::pack_groups,
                                         direct::moment_pieces};
extern const Kernel<ConvDataGradient> direct_data_gradient;
const Kernel<ConvDataGradient> direct_data_gradient{"direct", why, direct::data_gradient_applies,
                                                    direct::data_gradient};

}  // namespace pyconvopt::cpu::PYCONVOPT_ISA
