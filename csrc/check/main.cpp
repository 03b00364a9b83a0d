// check_kernels [most multiplications of a convolution]: holds every kernel of the table beside the
// reference on every instruction set of the machine; exit status 1 where one is off or goes untested.
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "check.hpp"
#include "conv.hpp"

namespace pyconvopt::check {
namespace {

constexpr std::size_t guard = 16;
constexpr float guard_value = -7e33f;
constexpr uint8_t guard_byte = 0xa5;

std::mt19937& random_bits() {
  static std::mt19937 bits(1);
  return bits;
}

}  // namespace

Floats draw(int64_t count, float scale, float shift) {
  std::normal_distribution<float> normal;
  Floats values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(random_bits()) * scale + shift;
  return values;
}

Bytes draw_argmax(int64_t count) {
  Bytes bytes(static_cast<std::size_t>(count));
  for (uint8_t& b : bytes) b = uint8_t(random_bits()() % (pool_dead + 1));
  return bytes;
}

float* Results::floats(const Floats& start) {
  Floats& buffer = floats_.emplace_back(start.size() + 2 * guard, guard_value);
  std::copy(start.begin(), start.end(), buffer.begin() + guard);
  return buffer.data() + guard;
}

uint8_t* Results::bytes(int64_t count) {
  uint8_t* buffer = any_bytes(count);
  compared_.back() = true;
  return buffer;
}

uint8_t* Results::any_bytes(int64_t count) {
  compared_.push_back(false);
  Bytes& buffer = bytes_.emplace_back(std::size_t(count) + 2 * guard, uint8_t(0xee));
  std::fill_n(buffer.begin(), guard, guard_byte);
  std::fill_n(buffer.end() - guard, guard, guard_byte);
  return buffer.data() + guard;
}

std::string Results::difference(const Results& wanted, double bound) const {
  for (std::size_t b = 0; b < floats_.size(); ++b) {
    const Floats &got = floats_[b], &want = wanted.floats_[b];
    double squares = 0, worst = 0;
    const std::size_t end = got.size() - guard;
    for (std::size_t i = guard; i < end; ++i) {
      squares += double(want[i]) * want[i];
      const double error = std::fabs(double(got[i]) - want[i]);
      if (!(error <= worst)) worst = error;  // a NaN stays
    }
    const double rms = std::sqrt(squares / double(end - guard));
    if (end > guard && !(worst <= bound * rms))
      return "result " + std::to_string(b) + " is off by " + std::to_string(worst / rms * 1e6) +
             "e-6 of the RMS, allowed " + std::to_string(bound * 1e6) + "e-6";
  }
  for (std::size_t b = 0; b < bytes_.size(); ++b) {
    std::size_t other = 0;
    for (std::size_t i = 0; i < bytes_[b].size(); ++i) other += bytes_[b][i] != wanted.bytes_[b][i];
    if (compared_[b] && other > 1 + bytes_[b].size() / 1000)
      return std::to_string(other) + " of " + std::to_string(bytes_[b].size()) + " bytes differ";
  }
  return broken_guard();
}

std::string Results::broken_guard() const {
  for (const Floats& buffer : floats_)
    for (std::size_t i = 0; i < guard; ++i)
      if (buffer[i] != guard_value || buffer[buffer.size() - 1 - i] != guard_value)
        return "wrote outside a buffer of floats";
  for (const Bytes& buffer : bytes_)
    for (std::size_t i = 0; i < guard; ++i)
      if (buffer[i] != guard_byte || buffer[buffer.size() - 1 - i] != guard_byte)
        return "wrote outside a buffer of bytes";
  return "";
}

void Report::fail(const std::string& text) {
  ++failures;
  std::printf("FAILED %s\n", text.c_str());
}

Report& report() {
  static Report report;
  return report;
}

}  // namespace pyconvopt::check

int main(int count, char** arguments) {
  using namespace pyconvopt;
  using namespace pyconvopt::check;
  const int64_t most_multiplications = count > 1 ? std::atoll(arguments[1]) : INT64_MAX;
  // Each draws its own numbers: a case that one gets more changes nothing for the others.
  for (const auto& each : {std::function<void()>([&] { check_convolutions(most_multiplications); }),
                           {check_rows},
                           {check_optimizers},
                           {check_memory},
                           {check_sequences},
                           {check_callers}}) {
    random_bits().seed(1);
    each();
  }
  std::string isas;
  for (const Isa isa : all_isas)
    if (isa_available(isa) && isa != Isa::reference) isas += std::string(" ") + isa_name(isa);
  for (const KernelName& row : kernel_names()) {
    if (row.kernel == "reference" || isas.find(" " + row.isa) == std::string::npos) continue;
    const std::string name = row.problem + " " + row.kernel + " " + row.isa;
    if (!report().reached.contains(name)) report().fail(name + ": no case reaches it");
  }
  std::printf("%zu kernels (%s ) in %lld runs: %lld failures\n", report().reached.size(), isas.c_str(),
              static_cast<long long>(report().runs), static_cast<long long>(report().failures));
  return report().failures != 0;
}
