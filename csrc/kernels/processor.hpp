// The caches of the processor at hand, as the system tells of them; where it does not, what most have.
#pragma once
#include <cstdint>

namespace pyconvopt {

int64_t first_level_ways();    // lines that a set of a core's first-level cache of data keeps
int64_t second_level_cache();  // bytes of a core's

}  // namespace pyconvopt
