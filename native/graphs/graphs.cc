/**
 * Passes of a GPU that are recorded once and repeated: CUDA graphs of libtorch as operators `dinov2_graphs::…`.
 *
 * A recording begins on a stream of its own, with memory of its own: what is asked of the device until its end is noted
 * and not run. A replay runs all of it again as one launch, on the stream that computes, upon the same memory. So a
 * recorded pass reads its operands where they lay when it was recorded, and writes its results over those of the replay
 * before.
 *
 * It needs the headers of CUDA, and is compiled and loaded where graphs are asked for, on a CUDA device.
 */
#define NAPI_VERSION 8
#include <node_api.h>

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <map>
#include <memory>
#include <optional>

namespace {

struct Recording {
  at::cuda::CUDAGraph graph;
  /** The stream to go back to, while what is asked for is recorded. */
  std::optional<c10::cuda::CUDAStream> before;
  c10::DeviceIndex device = 0;
};

/** Never destroyed, as all that holds memory of a device: at exit the driver may be gone before these. */
std::map<int64_t, std::unique_ptr<Recording>>& recordings = *new std::map<int64_t, std::unique_ptr<Recording>>();

Recording& at_number(int64_t number) {
  const auto found = recordings.find(number);
  TORCH_CHECK(found != recordings.end(), "there is no recorded pass ", number);
  return *found->second;
}

void synchronize(c10::DeviceIndex device) { c10::impl::VirtualGuardImpl(c10::kCUDA).synchronizeDevice(device); }

/** The stream on which passes are recorded, one a device: cuBLAS keeps memory for each stream that it has met. */
c10::cuda::CUDAStream recordingStream(c10::DeviceIndex device) {
  static auto& streams = *new std::map<c10::DeviceIndex, c10::cuda::CUDAStream>();
  const auto found = streams.find(device);
  return (found == streams.end() ? streams.emplace(device, c10::cuda::getStreamFromPool(false, device)).first : found)->second;
}

/** begin(x) → number of a recording that has begun on the device of x. */
int64_t begin(const at::Tensor& x) {
  static int64_t next = 0;
  const auto device = x.device().index();
  synchronize(device);
  auto recording = std::make_unique<Recording>();
  recording->device = device;
  recording->before = c10::cuda::getCurrentCUDAStream(device);
  c10::cuda::setCurrentCUDAStream(recordingStream(device));
  try {
    // Other threads, such as those that watch over collectives, may go on with what they do.
    recording->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  } catch (...) {
    c10::cuda::setCurrentCUDAStream(*recording->before);
    throw;
  }
  recordings.emplace(next, std::move(recording));
  return next++;
}

/** end(number): the recording is whole and can be replayed. Throws where something was asked for that cannot be recorded. */
void end(int64_t number) {
  auto& recording = at_number(number);
  TORCH_CHECK(recording.before, "recording ", number, " has ended before");
  const auto before = *recording.before;
  recording.before.reset();
  try {
    recording.graph.capture_end();
  } catch (...) {
    c10::cuda::setCurrentCUDAStream(before);
    throw;
  }
  c10::cuda::setCurrentCUDAStream(before);
}

/** replay(number): asks the device for all that was recorded, behind what was asked of it before. */
void replay(int64_t number) {
  auto& recording = at_number(number);
  TORCH_CHECK(!recording.before, "recording ", number, " has not ended");
  recording.graph.replay();
}

/** release(number): lets a recording and its memory go, also one that has not ended. */
void release(int64_t number) {
  auto& recording = at_number(number);
  if (recording.before) try {
      end(number);
    } catch (const std::exception&) {  // what went wrong is known: it is why this is released
    }
  synchronize(recording.device);
  recordings.erase(number);
}

TORCH_LIBRARY(dinov2_graphs, library) {
  library.def("begin(Tensor x) -> int", begin);
  library.def("end(int number) -> ()", end);
  library.def("replay(int number) -> ()", replay);
  library.def("release(int number) -> ()", release);
}

napi_value init(napi_env, napi_value exports) { return exports; }

}  // namespace

NAPI_MODULE(dinov2_graphs, init)
