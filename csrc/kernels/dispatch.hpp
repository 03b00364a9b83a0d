// Chooses kernels: the instruction set once per process, the kernel by the table and the problem.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kernel.hpp"

namespace pyconvopt {

enum class Isa { reference, baseline, avx2, avx512 };  // `reference`: the plain loops alone, for tests
inline constexpr Isa all_isas[] = {Isa::reference, Isa::baseline, Isa::avx2, Isa::avx512};

const char* isa_name(Isa isa);
bool isa_available(Isa isa);          // built in, and the processor has it
Isa active_isa();                     // the best available, or what PYCONVOPT_ISA or set_isa asked for
void set_isa(std::string_view name);  // throws std::invalid_argument; "auto" for the best available

bool winograd_enabled();  // settings(winograd=…) and PYCONVOPT_WINOGRAD
void set_winograd(bool enabled);

// The first kernel of the table that takes the problem and is worth it; the reference takes every problem.
template <class P>
const Kernel<P>& choose(const P& problem);

// The kernel of that name; throws std::invalid_argument if there is none or it does not apply.
template <class P>
const Kernel<P>& find(const P& problem, std::string_view name);

template <class P>
void run(const P& problem) {
  choose(problem).run(problem);
}

struct KernelName {
  std::string problem, kernel, isa;
};
std::vector<KernelName> kernel_names();  // the whole table

}  // namespace pyconvopt
