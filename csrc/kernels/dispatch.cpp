#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "activation.hpp"
#include "conv.hpp"
#include "cross_entropy.hpp"
#include "dropout.hpp"
#include "norm.hpp"
#include "optim.hpp"
#include "pool.hpp"

namespace pyconvopt {

#define KERNEL(P, name) extern const Kernel<P> name;
#define PROBLEM(P, name) extern const Kernel<P> name;
#include "problems.inc"
namespace cpu {
#if PYCONVOPT_HAS_baseline
namespace baseline {
#include "cpu/kernels.inc"
}
#endif
#if PYCONVOPT_HAS_avx2
namespace avx2 {
#include "cpu/kernels.inc"
}
#endif
#if PYCONVOPT_HAS_avx512
namespace avx512 {
#include "cpu/kernels.inc"
}
#endif
}  // namespace cpu
#undef KERNEL
#undef PROBLEM

namespace {

template <class P>
using Row = std::vector<const Kernel<P>*>;

template <class P>
Row<P>& row(Isa isa) {
  static Row<P> rows[std::size(all_isas)];
  return rows[int(isa)];
}

std::vector<KernelName>& names() {
  static std::vector<KernelName> names;
  return names;
}

template <class P>
void add(Isa isa, const char* problem, const Kernel<P>& kernel) {
  row<P>(isa).push_back(&kernel);
  names().push_back({problem, kernel.name, isa_name(isa)});
}

[[maybe_unused]] const bool table_filled = [] {
#if PYCONVOPT_HAS_baseline
#define KERNEL(P, name) add<P>(Isa::baseline, #P, cpu::baseline::name);
#include "cpu/kernels.inc"
#undef KERNEL
#endif
#if PYCONVOPT_HAS_avx2
#define KERNEL(P, name) add<P>(Isa::avx2, #P, cpu::avx2::name);
#include "cpu/kernels.inc"
#undef KERNEL
#endif
#if PYCONVOPT_HAS_avx512
#define KERNEL(P, name) add<P>(Isa::avx512, #P, cpu::avx512::name);
#include "cpu/kernels.inc"
#undef KERNEL
#endif
  for (const Isa isa : all_isas) {
#define PROBLEM(P, name) add<P>(isa, #P, name);
#include "problems.inc"
#undef PROBLEM
  }
  return true;
}();

constexpr bool built_in(Isa isa) {
  switch (isa) {
#if PYCONVOPT_HAS_baseline
    case Isa::baseline: return true;
#endif
#if PYCONVOPT_HAS_avx2
    case Isa::avx2: return true;
#endif
#if PYCONVOPT_HAS_avx512
    case Isa::avx512: return true;
#endif
    default: return isa == Isa::reference;
  }
}

bool from_environment(const char* variable, bool otherwise) {
  const char* text = std::getenv(variable);
  if (!text || !*text) return otherwise;
  return std::strcmp(text, "0") && std::strcmp(text, "off") && std::strcmp(text, "false");
}

Isa best_isa() {
  Isa best = Isa::baseline;
  for (const Isa isa : all_isas)
    if (isa_available(isa)) best = isa;
  return best;
}

Isa parse_isa(std::string_view name) {
  if (name.empty() || name == "auto") return best_isa();
  std::string usable;
  for (const Isa isa : all_isas) {
    if (!isa_available(isa)) continue;
    if (name == isa_name(isa)) return isa;
    usable += std::string(usable.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument("instruction set '" + std::string(name) + "' is not usable here; usable: " + usable);
}

std::atomic<Isa>& isa_in_use() {
  static std::atomic<Isa> isa = parse_isa(std::getenv("PYCONVOPT_ISA") ? std::getenv("PYCONVOPT_ISA") : "");
  return isa;
}

std::atomic<bool>& winograd_in_use() {
  static std::atomic<bool> enabled = from_environment("PYCONVOPT_WINOGRAD", true);
  return enabled;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::reference: return "reference";
    default: return "baseline";
  }
}

bool isa_available(Isa isa) {
  if (!built_in(isa)) return false;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (isa == Isa::avx2) return v3;
  if (isa == Isa::avx512) return v4;
#endif
  return isa == Isa::baseline || isa == Isa::reference;
}

Isa active_isa() { return isa_in_use(); }
void set_isa(std::string_view name) { isa_in_use() = parse_isa(name); }
bool winograd_enabled() { return winograd_in_use(); }
void set_winograd(bool enabled) { winograd_in_use() = enabled; }
std::vector<KernelName> kernel_names() { return names(); }

template <class P>
const Kernel<P>& choose(const P& problem) {
  const Row<P>& kernels = row<P>(active_isa());
  for (const Kernel<P>* kernel : kernels)
    if (kernel->applies(problem) && (!kernel->worth_it || kernel->worth_it(problem))) return *kernel;
  return *kernels.back();
}

template <class P>
const Kernel<P>& find(const P& problem, std::string_view name) {
  for (const Kernel<P>* kernel : row<P>(active_isa()))
    if (name == kernel->name) {
      if (kernel->applies(problem)) return *kernel;
      throw std::invalid_argument("kernel '" + std::string(name) + "' does not take this problem");
    }
  throw std::invalid_argument("there is no kernel '" + std::string(name) + "' for this operation");
}

#define PROBLEM(P, name)                         \
  template const Kernel<P>& choose<P>(const P&); \
  template const Kernel<P>& find<P>(const P&, std::string_view);
#include "problems.inc"
#undef PROBLEM

}  // namespace pyconvopt
