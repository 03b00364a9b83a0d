// What the reference kernels share.
#pragma once
#include "../kernel.hpp"

namespace pyconvopt::reference {

inline constexpr const char* last_resort = "plain loops: no faster kernel takes this problem";

template <class P>
bool takes_all(const P&) {
  return true;
}

}  // namespace pyconvopt::reference
