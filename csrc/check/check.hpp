// One problem, run by every kernel that takes it on every instruction set of the machine, beside the
// reference; with one thread and with three, whose results must have the same bits.
#pragma once
#include <omp.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.hpp"

namespace pyconvopt::check {

using Floats = std::vector<float>;  // of the exact size: a sanitizer sees a read behind the end
using Bytes = std::vector<uint8_t>;

Floats draw(int64_t count, float scale = 1, float shift = 0);
Bytes draw_argmax(int64_t count);  // 0..3, and pool_dead

// What a kernel writes. Buffers start as values no kernel leaves, between guards that none may touch.
class Results {
 public:
  float* floats(int64_t count) { return floats(Floats(std::size_t(count), 1e30f)); }
  float* floats(const Floats& start);  // for what is read and written
  uint8_t* bytes(int64_t count);       // one in a thousand may differ: rounding orders nearly equal pixels anew
  uint8_t* any_bytes(int64_t count);   // the guards alone are checked
  // The first difference to the reference's results as text, or nothing.
  std::string difference(const Results& wanted, double bound) const;
  std::string broken_guard() const;
  bool same_bits(const Results& other) const { return floats_ == other.floats_ && bytes_ == other.bytes_; }

 private:
  std::deque<Floats> floats_;
  std::deque<Bytes> bytes_;
  std::deque<bool> compared_;  // of each of the bytes_
};

// Kernels seen, and complaints; what main reports.
struct Report {
  std::set<std::string> reached;  // "problem kernel isa"
  int64_t runs = 0, failures = 0;
  void fail(const std::string& text);
};
Report& report();

template <class P>
const Kernel<P>* taken(const P& problem, const std::string& kernel) {
  try {
    return &find(problem, kernel);
  } catch (const std::invalid_argument&) {
    return nullptr;
  }
}

// bind(problem, results) gives the problem its buffers; finish(problem, results) may add results made
// of those. `bound` is the largest error by the result's RMS.
template <class P, class Bind, class Finish>
void check(const char* problem_name, const std::string& what, P problem, double bound, Bind bind, Finish finish) {
  Results wanted;
  set_isa("reference");
  bind(problem, wanted);
  run(problem);
  finish(problem, wanted);
  for (const KernelName& row : kernel_names()) {
    if (row.problem != problem_name || row.kernel == "reference") continue;
    try {
      set_isa(row.isa);
    } catch (const std::invalid_argument&) {
      continue;  // not on this machine
    }
    const Kernel<P>* kernel = taken(problem, row.kernel);
    if (!kernel) continue;
    Results results[2];
    for (int i = 0; i < 2; ++i) {
      omp_set_num_threads(i ? 3 : 1);
      bind(problem, results[i]);
      kernel->run(problem);
      finish(problem, results[i]);
    }
    const std::string name = row.problem + " " + row.kernel + " " + row.isa, at = name + ", " + what + ": ";
    report().reached.insert(name);
    ++report().runs;
    const std::string error = results[0].difference(wanted, bound), guard = results[1].broken_guard();
    if (!error.empty()) report().fail(at + error);
    if (!guard.empty()) report().fail(at + guard);
    if (!results[1].same_bits(results[0])) report().fail(at + "three threads give other bits than one");
  }
}

template <class P, class Bind>
void check(const char* problem_name, const std::string& what, const P& problem, double bound, Bind bind) {
  check(problem_name, what, problem, bound, bind, [](const P&, Results&) {});
}

void check_convolutions(int64_t most_multiplications);
void check_rows();
void check_optimizers();
void check_memory();
void check_sequences();
void check_callers();

}  // namespace pyconvopt::check
