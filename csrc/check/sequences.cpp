// Sequences of convolutions: what comes out has the bits of the same kernels run one by one, each into a
// map of its own, whatever maps share memory between.
#include <memory>

#include "check.hpp"
#include "conv_sequence.hpp"

namespace pyconvopt::check {
namespace {

constexpr int64_t channels = 16, height = 9, width = 7;

// Twelve convolutions that read one of the last maps each, and add another or none; a dense layer reads the last.
void check_chain(unsigned seed, const std::string& at) {
  std::mt19937 random(seed);
  const auto weights = std::make_shared<PreparedWeights>();
  ConvSequence sequence(weights);
  const int64_t floats = 2 * channels * height * width;
  std::deque<Floats> maps{draw(floats)}, filters;
  sequence.add_input({2, channels, height, width});
  for (int step = 0; step < 12; ++step) {
    const int64_t last = int64_t(maps.size()) - 1, taps = random() % 2 ? 3 : 1;
    const int64_t input = last - int64_t(random()) % std::min<int64_t>(3, last + 1);
    const int64_t residual = random() % 2 ? last - int64_t(random()) % std::min<int64_t>(4, last + 1) : -1;
    filters.push_back(draw(channels * channels * taps * taps, 0.2f));
    ConvForward p{.shape = {2, channels, height, width, channels, taps, taps, 1, 1, taps / 2, taps / 2},
                  .input = maps[std::size_t(input)].data(),
                  .weight = filters.back().data(),
                  .weight_strides = {taps * taps * channels, 1, taps * channels, channels},
                  .activation = Activation(random() % activation_count)};
    sequence.add(p, input, residual);
    maps.emplace_back(std::size_t(floats), 1e30f);
    p.output = maps.back().data();
    p.residual = residual < 0 ? nullptr : maps[std::size_t(residual)].data();
    p.keeps = true;
    run(p);
  }
  constexpr int64_t all = channels * height * width, classes = 10;
  filters.push_back(draw(classes * all, 0.2f));
  ConvForward dense{.shape = {2, all, 1, 1, classes, 1, 1},
                    .input = maps.back().data(),
                    .weight = filters.back().data(),
                    .weight_strides = {all, 1, 1, 1}};
  sequence.add(dense, 12);
  Floats answer(2 * classes, 1e30f);
  dense.output = answer.data();
  dense.keeps = true;
  run(dense);
  const std::vector<int64_t> results{1 + int64_t(random()) % 11, 12, 13};
  sequence.finish(results);
  for (int repeat = 0; repeat < 2; ++repeat) {
    Floats first(std::size_t(floats), 1e30f), second = first, third(2 * classes, 1e30f);
    sequence.run({maps[0].data()}, {first.data(), second.data(), third.data()});
    if (first != maps[std::size_t(results[0])] || second != maps[std::size_t(results[1])] || third != answer)
      report().fail(at + ", seed " + std::to_string(seed) + ": other numbers than the kernels one by one");
  }
}

}  // namespace

void check_sequences() {
  for (const Isa isa : all_isas) {
    if (!isa_available(isa)) continue;
    set_isa(isa_name(isa));
    for (unsigned seed = 0; seed < 10; ++seed) {
      omp_set_num_threads(seed % 2 ? 3 : 1);
      check_chain(seed, std::string("sequence on ") + isa_name(isa));
    }
  }
}

}  // namespace pyconvopt::check
