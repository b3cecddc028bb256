/**
 * Copies between host and device that run beside what is computed.
 *
 * A batch goes to the device on a stream of its own, from a ring of pinned buffers, so that the copy of one batch runs
 * while the device computes on the one before it. Three things keep that right:
 *
 * - what is computed waits for the copy's event, and a buffer is not written again before that event;
 * - the memory of the copy comes from the allocator under the copy's stream, so the allocator is told that the stream
 *   that computes uses it too, and does not give it away while that stream may still read it;
 * - a buffer is not written again before the device is done with all that was asked of it until the batch after that
 *   one came. So the host is never more than three batches ahead, and the device holds no more of them.
 *
 * All goes through libtorch's interfaces for any device with streams.
 */
#include "copies.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <array>
#include <map>

namespace dinov2 {
namespace {

constexpr size_t kBuffers = 3;

struct Buffer {
  at::Tensor host;  // bytes of pinned memory, as many as the largest batch had
  c10::Event copied, used;
  explicit Buffer(c10::DeviceType type) : copied(type), used(type) {}
};

/** The buffers of one device and the stream on which they are copied. */
class Ring {
 public:
  explicit Ring(const c10::Device& device)
      : device_(device), guard_(device.type()), stream_(guard_.getStreamFromGlobalPool(device)),
        buffers_{Buffer(device.type()), Buffer(device.type()), Buffer(device.type())} {}

  at::Tensor copy(size_t bytes, const std::function<void(char*)>& fill) {
    const auto computing = guard_.getStream(device_);
    if (last_) last_->used.record(computing);
    auto& buffer = buffers_[next_];
    buffer.copied.synchronize();
    buffer.used.synchronize();
    const auto size = static_cast<int64_t>(bytes);
    if (!buffer.host.defined() || buffer.host.numel() < size)
      buffer.host = at::empty({size}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    fill(static_cast<char*>(buffer.host.data_ptr()));
    at::Tensor out;
    {
      c10::StreamGuard onItsOwn(stream_);
      out = at::empty({size}, at::TensorOptions().dtype(at::kByte).device(device_));
      out.copy_(buffer.host.narrow(0, 0, size), /*non_blocking=*/true);
      buffer.copied.record(stream_);
    }
    buffer.copied.block(computing);
    guard_.recordDataPtrOnStream(out.storage().data_ptr(), computing);
    last_ = &buffer;
    next_ = (next_ + 1) % kBuffers;
    return out;
  }

 private:
  c10::Device device_;
  c10::impl::VirtualGuardImpl guard_;
  c10::Stream stream_;
  std::array<Buffer, kBuffers> buffers_;
  size_t next_ = 0;
  Buffer* last_ = nullptr;
};

}  // namespace

bool hasStreams(const c10::Device& device) { return device.is_cuda() || device.is_privateuseone(); }

at::Tensor copyBeside(size_t bytes, const c10::Device& device, const std::function<void(char*)>& fill) {
  // Never destroyed: when the process ends the driver may be gone before these.
  static auto& rings = *new std::map<std::string, Ring>();
  return rings.try_emplace(device.str(), device).first->second.copy(bytes, fill);
}

Reading::Reading(const at::Tensor& tensor, at::ScalarType type) {
  const auto device = tensor.device();
  const bool beside = hasStreams(device);
  // Into pinned memory, which libtorch takes for copies of this kind.
  host_ = tensor.to(type).contiguous().to(c10::kCPU, /*non_blocking=*/beside);
  if (!beside) return;
  copied_ = std::make_unique<c10::Event>(device.type());
  copied_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

bool Reading::ended() const { return !copied_ || copied_->query(); }

const at::Tensor& Reading::values() const {
  if (copied_) copied_->synchronize();
  return host_;
}

}  // namespace dinov2
