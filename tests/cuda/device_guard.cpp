// Lets torch built for CPUs record gradients of tensors that claim to be on a GPU: one device, one stream.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

struct OneDevice final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

const c10::impl::DeviceGuardImplRegistrar registered(c10::DeviceType::CUDA, new OneDevice);

}  // namespace
