// Output maps: large ones in the memory that is kept for maps (map_memory.hpp), small ones in torch's.
#include "torch_tensor.hpp"

#include "arena.hpp"
#include "map_memory.hpp"

// Of torch 2.11's stable interface; null in an older one, where malloc gives all memory.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* ret, int32_t layout, const uint8_t* opaque_metadata,
    int64_t opaque_metadata_size, void (*deleter)(void* data, void* ctx), void* ctx);

namespace pyconvopt::binding {

Tensor empty_map(int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) {
  const Sizes sizes{n, c, h, w};
  const int32_t dtype = dtype_of(type);
  const std::size_t bytes = std::size_t(bytes_of(sizes, dtype));
  const Sizes strides{h * w * c, 1, w * c, c};
  if (bytes < smallest_map || !torch_from_blob || !freed_memory_is_kept()) return empty_strided(sizes, strides, dtype);
  void* data = take_map(bytes);
  if (!data) return empty_strided(sizes, strides, dtype);
  AtenTensorHandle handle;
  if (torch_from_blob(
          data, 4, sizes.data(), strides.data(), 0, dtype, aoti_torch_device_type_cpu(), -1, &handle,
          aoti_torch_layout_strided(), nullptr, 0, [](void* map, void*) { give_back_map(map); }, nullptr)) {
    give_back_map(data);
    return empty_strided(sizes, strides, dtype);
  }
  return Tensor(handle);
}

}  // namespace pyconvopt::binding
