// Calls from several threads of the program at once, each with its own team: the arena serves them all,
// and each gets the result it would get alone.
#include <thread>

#include "check.hpp"
#include "conv.hpp"
#include "norm.hpp"

namespace pyconvopt::check {
namespace {

constexpr ConvShape shape{2, 16, 9, 9, 32, 3, 3};
constexpr MapShape map{2, 7, 7, 32};

struct Inputs {
  Floats x = draw(2 * 9 * 9 * 16), w = draw(32 * 16 * 9), scale = draw(32);
};

// A convolution and what normalisation makes of it.
Floats call(const Inputs& in) {
  Floats y(static_cast<std::size_t>(map.rows() * map.channels)), z = y, mean(32), invstd(32);
  run(ConvForward{.shape = shape,
                  .input = in.x.data(),
                  .weight = in.w.data(),
                  .weight_strides = {144, 1, 48, 16},
                  .output = y.data()});
  run(BatchNormForward{.shape = map,
                       .input = y.data(),
                       .weight = in.scale.data(),
                       .output = z.data(),
                       .saved_mean = mean.data(),
                       .saved_invstd = invstd.data()});
  return z;
}

}  // namespace

void check_callers() {
  const Inputs in;
  set_isa("auto");
  const Floats alone = call(in);
  bool same[4] = {};
  std::vector<std::thread> callers;
  for (bool& own : same)
    callers.emplace_back([&] {
      own = true;
      for (int i = 0; i < 20; ++i) own = own && call(in) == alone;
    });
  for (std::thread& caller : callers) caller.join();
  for (const bool own : same)
    if (!own) report().fail("calls from several threads at once: a result other than that of a call alone");
}

}  // namespace pyconvopt::check
