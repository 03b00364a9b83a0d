// What a kernel is to the rest of the program: a name, the problems it takes, and the function that runs it.
#pragma once
#include <cstdint>

namespace pyconvopt {

// What a kernel applies to its result in the same pass.
enum class Activation { none, relu, relu6, hardswish };
inline constexpr int64_t activation_count = 4;

// A problem type P describes one call: shapes and pointers. Kernels of the same P compete; the
// table (cpu/kernels.inc) lists them best first, and the first that applies and is worth it is run.
template <class P>
struct Kernel {
  const char* name;
  const char* reason;         // why it is chosen where it applies, for explain()
  bool (*applies)(const P&);  // looks at shapes, and at which optional parts are asked for
  void (*run)(const P&);
  // What may be computed once for many problems of the same shape and weights, and how large it is.
  int64_t (*prepared_floats)(const P&) = nullptr;
  void (*prepare)(const P&, float*) = nullptr;
  // Pieces of the statistics that it takes in the same pass, if it takes any (ConvForward::moments).
  int64_t (*moment_pieces)(const P&) = nullptr;
  // Whether it is likely the fastest where it applies; null: always.
  bool (*worth_it)(const P&) = nullptr;
};

}  // namespace pyconvopt
