// Convolutions that follow one another, on maps of sizes known beforehand and with weights that stay as they are.
//
// Kernels are chosen and weights prepared once. The maps between them lie in one piece of working memory,
// where each takes the place of those that nothing reads any more.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "conv.hpp"

namespace pyconvopt {

// What kernels make of weights once and for all; of the same weight only once, if several sequences want the same.
class PreparedWeights {
 public:
  // null for a kernel that prepares nothing
  const float* get(const Kernel<ConvForward>& kernel, const ConvForward& problem);
  int64_t floats();  // kept

 private:
  struct Free {
    void operator()(float* address) const;
  };
  struct Prepared {
    std::unique_ptr<float, Free> numbers;
    int64_t count;
  };
  std::mutex mutex_;
  std::map<const float*, std::vector<Prepared>> known_;  // by the weight
};

struct MapSize {
  int64_t batch, channels, height, width;
  int64_t floats() const { return batch * channels * height * width; }
  MapSize flat() const { return {batch, channels * height * width, 1, 1}; }  // each image as one pixel
  bool operator==(const MapSize&) const = default;
};

class ConvSequence {
 public:
  static constexpr int64_t none = -1;

  explicit ConvSequence(std::shared_ptr<PreparedWeights> weights) : weights_(std::move(weights)) {}

  // Values have numbers: first the inputs, then the results of the steps. All std::invalid_argument.
  int64_t add_input(MapSize size);
  // `problem`: input, output, argmax, residual and prepared are not looked at; weight and bias must stay where they
  // are. A dense layer is a 1×1 convolution of one pixel an image, in which it reads a map of any size.
  int64_t add(ConvForward problem, int64_t input, int64_t residual = none);
  void finish(const std::vector<int64_t>& results);

  const MapSize& size(int64_t value) const;
  int64_t inputs() const { return inputs_; }
  const std::vector<int64_t>& results() const { return results_; }

  // As many as `inputs()` and `results()`. May be called by several threads at once.
  void run(const std::vector<const float*>& inputs, const std::vector<float*>& results) const;

 private:
  struct Step {
    ConvForward problem;
    const Kernel<ConvForward>* kernel;
    int64_t input, residual;
    Activation after;  // with the residual, where the kernel does not take one
    bool residual_after;
  };
  struct Value {
    MapSize size;
    int64_t last_read = none;  // the step
    int64_t offset = none;     // in the working memory, in floats; `none`: an input or a result
  };
  void place_between(const std::vector<int64_t>& results);

  std::shared_ptr<PreparedWeights> weights_;
  std::vector<Step> steps_;
  std::vector<Value> values_;
  std::vector<int64_t> results_;
  int64_t inputs_ = 0, floats_ = 0, argmax_floats_ = 0;
};

}  // namespace pyconvopt
