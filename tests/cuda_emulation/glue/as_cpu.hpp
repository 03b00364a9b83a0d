// Put before every source: operators for CUDA are registered for CPU tensors, in a namespace of their own.
#pragma once
#include <torch/csrc/stable/library.h>

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) _STABLE_TORCH_LIBRARY_IMPL(pyconvopt_emulated, CPU, m, C10_UID)
