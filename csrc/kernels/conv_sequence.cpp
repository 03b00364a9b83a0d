#include "conv_sequence.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "arena.hpp"
#include "dispatch.hpp"

namespace pyconvopt {
namespace {

constexpr int64_t line = 16;  // floats of a cache line
constexpr std::size_t huge_page = std::size_t(2) << 20;

int64_t whole_lines(int64_t floats) { return (floats + line - 1) / line * line; }

float* zeroed(int64_t floats) {
  const std::size_t bytes = std::size_t(whole_lines(floats)) * sizeof(float);
  const bool large = bytes >= 2 * huge_page;
  const std::size_t unit = large ? huge_page : 64;
  void* address = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
  if (!address) out_of_memory(bytes);
  if (large) madvise(address, bytes, MADV_HUGEPAGE);
  std::memset(address, 0, bytes);
  return static_cast<float*>(address);
}

float applied(Activation activation, float y) {
  switch (activation) {
    case Activation::relu: return y > 0 || y != y ? y : 0;
    case Activation::relu6: return y != y ? y : std::clamp(y, 0.0f, 6.0f);
    case Activation::hardswish: return y * std::clamp(y + 3, 0.0f, 6.0f) / 6;
    case Activation::none: break;
  }
  return y;
}

void add_residual(float* y, const float* residual, int64_t count, Activation activation) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; ++i) y[i] = applied(activation, y[i] + residual[i]);
}

std::string text(const MapSize& s) {
  return std::to_string(s.batch) + " x " + std::to_string(s.channels) + " x " + std::to_string(s.height) + " x " +
         std::to_string(s.width);
}

constexpr int64_t most_floats = int64_t(1) << 58;  // more than any memory has; sums of some are below 2⁶³

void expect_memory_for(const MapSize& s) {
  int64_t floats = 1;
  bool fits = true;
  for (const int64_t size : {s.batch, s.channels, s.height, s.width})
    fits &= !__builtin_mul_overflow(floats, std::max<int64_t>(size, 1), &floats);
  if (!fits || floats > most_floats) throw std::invalid_argument("no memory holds a map of " + text(s));
}

}  // namespace

void PreparedWeights::Free::operator()(float* address) const { std::free(address); }

const float* PreparedWeights::get(const Kernel<ConvForward>& kernel, const ConvForward& problem) {
  if (!kernel.prepare) return nullptr;
  const int64_t count = kernel.prepared_floats(problem);
  std::unique_ptr<float, Free> numbers(zeroed(count));  // gaps too: the same weight gives the same bytes
  kernel.prepare(problem, numbers.get());
  const std::lock_guard lock(mutex_);
  std::vector<Prepared>& known = known_[problem.weight];
  for (const Prepared& each : known)
    if (each.count == count && !std::memcmp(each.numbers.get(), numbers.get(), std::size_t(count) * sizeof(float)))
      return each.numbers.get();
  known.push_back({std::move(numbers), count});
  return known.back().numbers.get();
}

int64_t PreparedWeights::floats() {
  const std::lock_guard lock(mutex_);
  int64_t sum = 0;
  for (const auto& [weight, known] : known_)
    for (const Prepared& each : known) sum += each.count;
  return sum;
}

const MapSize& ConvSequence::size(int64_t value) const {
  if (value < 0 || value >= int64_t(values_.size()))
    throw std::invalid_argument("there are values 0 to " + std::to_string(int64_t(values_.size()) - 1) + ", got " +
                                std::to_string(value));
  return values_[std::size_t(value)].size;
}

int64_t ConvSequence::add_input(MapSize size) {
  if (!steps_.empty()) throw std::invalid_argument("inputs must be named before the first convolution");
  expect_memory_for(size);
  values_.push_back({size});
  return inputs_++;
}

int64_t ConvSequence::add(ConvForward problem, int64_t input, int64_t residual) {
  if (!results_.empty()) throw std::invalid_argument("the sequence is finished");
  const ConvShape& s = problem.shape;
  const MapSize read{s.batch, s.in_channels, s.in_height, s.in_width};
  if (!(size(input) == read || size(input).flat() == read))
    throw std::invalid_argument("value " + std::to_string(input) + " is " + text(size(input)) + ", expected " +
                                text(read));
  if (problem.pool && problem.activation > Activation::relu)
    throw std::invalid_argument("pooling goes with ReLU or no activation");
  const int64_t step = problem.pool ? 2 : 1;
  const MapSize made{s.batch, s.out_channels, s.out_height() / step, s.out_width() / step};
  expect_memory_for(made);
  if (residual != none && !(size(residual) == made && !problem.pool))
    throw std::invalid_argument("the residual is " + text(size(residual)) + ", expected " + text(made) +
                                " and no pooling");
  problem.keeps = true;
  problem.prepared = problem.residual = nullptr;
  Step made_by{.problem = problem,
               .kernel = &choose(problem),
               .input = input,
               .residual = residual,
               .after = Activation::none,
               .residual_after = false};
  if (residual != none) {
    const Kernel<ConvForward>& alone = *made_by.kernel;
    made_by.problem.residual = problem.weight;  // only whether there is one counts
    made_by.kernel = &choose(made_by.problem);
    const auto is_reference = [](const Kernel<ConvForward>& kernel) { return !std::strcmp(kernel.name, "reference"); };
    if (is_reference(*made_by.kernel) && !is_reference(alone)) {  // the kernel of the shape takes none
      made_by.kernel = &alone;
      made_by.residual_after = true;
      made_by.after = problem.activation;
      made_by.problem.activation = Activation::none;
    }
    made_by.problem.residual = nullptr;
    values_[std::size_t(residual)].last_read = int64_t(steps_.size());
  }
  made_by.problem.prepared = weights_->get(*made_by.kernel, made_by.problem);
  values_[std::size_t(input)].last_read = int64_t(steps_.size());
  if (problem.pool) argmax_floats_ = std::max(argmax_floats_, whole_lines(made.floats() / 4 + 1));
  steps_.push_back(made_by);
  values_.push_back({made});
  return int64_t(values_.size()) - 1;
}

void ConvSequence::finish(const std::vector<int64_t>& results) {
  if (!results_.empty()) throw std::invalid_argument("the sequence is finished already");
  for (auto value = results.begin(); value != results.end(); ++value) {
    size(*value);
    if (*value < inputs_) throw std::invalid_argument("value " + std::to_string(*value) + " is an input, no result");
    if (std::find(results.begin(), value, *value) != value)
      throw std::invalid_argument("value " + std::to_string(*value) + " is a result twice");
  }
  place_between(results);
  results_ = results;
}

// First fit: a map goes to the first gap between the maps that are still to be read.
void ConvSequence::place_between(const std::vector<int64_t>& results) {
  struct Piece {
    int64_t begin, end, last_read;
  };
  std::vector<Piece> live;  // by their begin
  floats_ = 0;
  for (int64_t step = 0; step < int64_t(steps_.size()); ++step) {
    std::erase_if(live, [&](const Piece& piece) { return piece.last_read < step; });
    Value& value = values_[std::size_t(inputs_ + step)];
    if (std::find(results.begin(), results.end(), inputs_ + step) != results.end()) continue;
    const int64_t floats = whole_lines(value.size.floats());
    int64_t begin = 0;
    auto at = live.begin();
    for (; at != live.end() && at->begin - begin < floats; ++at) begin = at->end;
    if (begin + floats > most_floats) throw std::invalid_argument("no memory holds the maps of the sequence");
    value.offset = begin;
    live.insert(at, {begin, begin + floats, std::max(value.last_read, step)});
    floats_ = std::max(floats_, begin + floats);
  }
}

void ConvSequence::run(const std::vector<const float*>& inputs, const std::vector<float*>& results) const {
  if (results_.empty()) throw std::invalid_argument("the sequence is not finished");
  Workspace space(std::size_t(floats_ + argmax_floats_ + 4 * line) * sizeof(float));
  float* between = space.floats(std::size_t(floats_));
  uint8_t* argmax = reinterpret_cast<uint8_t*>(space.floats(std::size_t(argmax_floats_)));
  std::vector<float*> made(steps_.size());
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const Value& value = values_[std::size_t(inputs_) + i];
    if (value.offset != none) made[i] = between + value.offset;
  }
  for (std::size_t i = 0; i < results_.size(); ++i) made[std::size_t(results_[i] - inputs_)] = results[i];
  const auto at = [&](int64_t value) -> const float* {
    return value < inputs_ ? inputs[std::size_t(value)] : made[std::size_t(value - inputs_)];
  };
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    ConvForward p = step.problem;
    p.input = at(step.input);
    p.output = made[i];
    p.argmax = p.pool ? argmax : nullptr;
    if (step.residual != none && !step.residual_after) p.residual = at(step.residual);
    const int64_t floats = values_[std::size_t(inputs_) + i].size.floats();
    if (!floats) continue;
    step.kernel->run(p);
    if (step.residual_after) add_residual(p.output, at(step.residual), floats, step.after);
  }
}

}  // namespace pyconvopt
