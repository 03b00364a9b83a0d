// Which channel an element lies in, for both layouts: a map is planes of `inner` neighbours of one channel
// (NCHW: the pixels of an image; NHWC: 1).
#pragma once
#include "device.cuh"

namespace pyconvopt::cuda {

struct MapIndex {
  int64_t inner, channels, image_size;

  explicit MapIndex(const PyconvoptMap& s)
      : inner(s.layout == PYCONVOPT_NCHW ? pixels(s) : 1), channels(s.channels), image_size(pixels(s) * s.channels) {}
  __device__ int64_t image(int64_t element) const { return element / image_size; }
  __device__ int64_t channel(int64_t element) const { return element / inner % channels; }
};

// How the four neighbours of a thread lie in channels.
enum class Neighbours { four_channels, one_channel, any };

inline Neighbours neighbours_of(const PyconvoptMap& s) {
  if (s.layout == PYCONVOPT_NHWC) return s.channels % 4 == 0 ? Neighbours::four_channels : Neighbours::any;
  return pixels(s) % 4 == 0 ? Neighbours::one_channel : Neighbours::any;
}

// Walks a map in steps of the same size and knows the channel without dividing again.
class ChannelCursor {
 public:
  __device__ ChannelCursor(const MapIndex& index, int64_t at, int64_t step)
      : inner_(unsigned(index.inner)),
        channels_(unsigned(index.channels)),
        position_(unsigned(at % index.inner)),
        channel_(unsigned(index.channel(at))),
        step_position_(unsigned(step % index.inner)),
        step_channel_(unsigned(index.channel(step))) {}

  __device__ __forceinline__ void advance() {
    position_ += step_position_;
    channel_ += step_channel_;
    if (position_ >= inner_) position_ -= inner_, ++channel_;
    if (channel_ >= channels_) channel_ -= channels_;
  }

  // values[channel] of the four elements from here on; those beyond the end of the map get some channel's.
  template <Neighbours neighbours>
  __device__ __forceinline__ void gather(const float* values, float (&to)[4]) const {
    if constexpr (neighbours == Neighbours::four_channels) {
      load<float, 4>(values + channel_, to);
    } else if constexpr (neighbours == Neighbours::one_channel) {
      to[0] = to[1] = to[2] = to[3] = values[channel_];
    } else {
      unsigned position = position_, channel = channel_;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        to[k] = values[channel];
        if (++position == inner_) {
          position = 0;
          if (++channel == channels_) channel = 0;
        }
      }
    }
  }

 private:
  unsigned inner_, channels_, position_, channel_, step_position_, step_channel_;
};

}  // namespace pyconvopt::cuda
