/** Copies between host and device that run beside what is computed; see copies.cc. */
#pragma once
#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <functional>
#include <memory>

namespace dinov2 {

/** Whether copies can run beside the computation there: on devices with streams, events and pinned memory. */
bool hasStreams(const c10::Device& device);

/**
 * A new vector of `bytes` bytes on the device, which `fill` writes into pinned memory of the host. The copy runs on a
 * stream of its own; what is computed from here on waits for it, what was asked for before does not.
 */
at::Tensor copyBeside(size_t bytes, const c10::Device& device, const std::function<void(char*)>& fill);

/** A copy of a tensor to the host that has begun, behind what was asked of the device before it. */
class Reading {
 public:
  Reading(const at::Tensor& tensor, at::ScalarType type);
  /** Whether the copy has ended; does not wait. */
  bool ended() const;
  /** The numbers; waits for the end of the copy. */
  const at::Tensor& values() const;

 private:
  at::Tensor host_;
  std::unique_ptr<c10::Event> copied_;
};

}  // namespace dinov2
