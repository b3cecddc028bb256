/**
 * A simulated accelerator for tests, in libtorch's slot for foreign devices (PrivateUse1), under the name `sim`.
 *
 * Its memory cannot be touched by the host outside of copies and of the device's own operators: a pointer that is read
 * on the wrong side ends the process with SIGSEGV, as on a GPU it would end with wrong numbers. Every operator runs on
 * the CPU, through libtorch's boxed fallback. What a GPU refuses is refused here: operands on two devices, views
 * through an operator, more memory than there is. Copies, operator calls and bytes are counted.
 *
 * Operators run at once. Copies that nobody waits for run late: they stand in the queue of their stream, with what they
 * copy into spoilt, until the stream has to go on or somebody waits for an event behind them. Memory that such a copy
 * has not filled, or that the allocator gave to one stream and another one uses, ends the call with an error.
 *
 * Passes can be recorded (`dinov2_graphs::…`, as `native/graphs` has them for CUDA): calls are noted with the memory that
 * they read and write, what they gave while they were recorded is spoilt, and a replay makes them again upon that memory.
 * What CUDA cannot record is refused: copies from and to the host, and waiting. Memory from outside of a recording is not
 * kept for it: a replay that reads what was let go meanwhile is told so.
 */
#define NAPI_VERSION 8
#include <node_api.h>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr auto kSim = c10::kPrivateUse1;
const c10::Device device(kSim, 0);
constexpr size_t kPage = 4096;
constexpr size_t kWhole = size_t(64) << 30;

struct Counts {
  double toDevice = 0, toHost = 0, within = 0, operators = 0;
} counts;
/** How often each operator was called, and which copies were made, since the last reset. */
std::map<std::string, double>& calls = *new std::map<std::string, double>();
bool inOperator = false;

// --------------------------------------------------------------------------------------------------------- streams

using Place = uint64_t;

/** What a stream has still to do, in order; place n is behind the first n things that were asked of it. */
struct Queue {
  std::deque<std::function<void()>> work;
  Place done = 0;
  Place asked() const { return done + work.size(); }
};
std::map<c10::StreamId, Queue>& queues = *new std::map<c10::StreamId, Queue>();
c10::StreamId current = 0;

struct Event {
  c10::StreamId stream;
  Place place;
  int queries = 0;
};

/** What happened since the last reset: copies as they are asked for, and the host as it waits or finds a copy done. */
std::vector<std::string>& trace = *new std::vector<std::string>();
/** Who forgets what a right program does: `streams` and `host` to wait for events, `allocator` which streams use memory, `graphs` half of a recording. */
std::string forgetful;

void runTo(c10::StreamId stream, Place place) {
  c10::InferenceMode guard;
  auto& queue = queues[stream];
  while (queue.done < place && !queue.work.empty()) {
    const auto work = std::move(queue.work.front());
    queue.work.pop_front();
    queue.done++;
    work();
  }
}
void drain() { runTo(current, queues[current].asked()); }
void drainAll() {
  for (auto& [stream, queue] : queues) runTo(stream, queue.asked());
}

// -------------------------------------------------------------------------------------------------- recorded passes

/** A tensor as a recording knows it: kept where the memory is its own, else only known by its place. */
struct Operand {
  at::Tensor own;
  c10::weak_intrusive_ptr<c10::StorageImpl> storage{c10::intrusive_ptr<c10::StorageImpl>()};
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;
  at::TensorOptions options;
};
struct Recording {
  std::vector<std::function<void()>> work;
  std::set<const void*> memory;  // what was given out while it was recorded
  c10::StreamId before = 0;
  bool ended = false;
};
std::map<int64_t, Recording>& recordings = *new std::map<int64_t, Recording>();
/** The recording under way. */
Recording* recorded = nullptr;
bool replaying = false;
/** Memory of all recordings: no other stream is given it, so any may use it. */
bool isRecorded(const void* data) {
  for (const auto& [number, one] : recordings)
    if (one.memory.count(data)) return true;
  return false;
}
void refuseWhileRecording(const char* what) {
  TORCH_CHECK(!recorded, "sim: operation not permitted when a stream is recorded: ", what);
}

// ---------------------------------------------------------------------------------------------------------- memory

/** Never destroyed, as libtorch's own allocators: tensors may be released while a process ends. */
struct Block {
  size_t bytes;
  c10::StreamId stream;          // to which the allocator gave it
  std::set<c10::StreamId> users;  // others that it was told of
  int unfilled = 0;              // copies into it that have not run
};
std::unordered_map<void*, Block>& blocks = *new std::unordered_map<void*, Block>();
c10::CachingAllocator::Stat& held = *new c10::CachingAllocator::Stat();
/** DINOV2_TEST_SIM_MEMORY: bytes of memory at the start. */
size_t limit = [] {
  const char* given = std::getenv("DINOV2_TEST_SIM_MEMORY");
  return given ? static_cast<size_t>(std::strtoull(given, nullptr, 10)) : kWhole;
}();

size_t whole(size_t bytes) { return ((bytes ? bytes : 1) + kPage - 1) / kPage * kPage; }

void release(void* data) {
  const auto found = blocks.find(data);
  if (found == blocks.end()) return;
  munmap(data, whole(found->second.bytes));
  held.decrease(found->second.bytes);
  blocks.erase(found);
}

struct Allocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (static_cast<size_t>(held.current) + bytes > limit)
      TORCH_CHECK_WITH(OutOfMemoryError, false, "SIM out of memory. Tried to allocate ", bytes, " bytes. SIM 0 has a total capacity of ", limit, " bytes of which ",
                       limit - held.current, " bytes is free.");
    void* data = mmap(nullptr, whole(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK(data != MAP_FAILED, "sim: the host has no memory left");
    blocks[data] = {bytes, current, {}};
    if (recorded) recorded->memory.insert(data);
    held.increase(bytes);
    return {data, data, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void*, const void*, size_t) const override { TORCH_CHECK(false, "sim: a storage is copied by the host"); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    const auto found = blocks.find(data.get());
    if (found != blocks.end() && forgetful != "allocator") found->second.users.insert(stream.id());
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0] = held;
    stats.reserved_bytes[0] = held;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override { held.reset_accumulated(); }
  void resetPeakStats(c10::DeviceIndex) override { held.reset_peak(); }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override { return {limit - held.current, limit}; }
};
Allocator& allocator = *new Allocator();

/** Memory of the host that copies may read and write late. */
std::set<const void*>& pinned = *new std::set<const void*>();
void releasePinned(void* data) {
  pinned.erase(data);
  std::free(data);
}
struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::aligned_alloc(64, (bytes / 64 + 1) * 64);
    pinned.insert(data);
    return {data, data, &releasePinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &releasePinned; }
  void copy_data(void* into, const void* from, size_t bytes) const override { default_copy_data(into, from, bytes); }
};
PinnedAllocator& pinnedAllocator = *new PinnedAllocator();

/** Refuses to use memory on a stream that may not: its contents are under way, or may be given away meanwhile. */
void refuseUse(const void* data) {
  const auto found = blocks.find(const_cast<void*>(data));
  if (found == blocks.end()) return;
  const auto& block = found->second;
  TORCH_CHECK(block.unfilled == 0, "sim: memory is used before the copy into it has ended; the stream does not wait for the copy's event");
  // While a pass is recorded nothing runs, and its own memory is given to nobody else.
  TORCH_CHECK(recorded || isRecorded(data) || block.stream == current || block.users.count(current), "sim: stream ", current, " uses memory of stream ", block.stream,
              ", of which the allocator does not know");
}

/** Makes a tensor's memory readable to the host for as long as this lives. */
struct Open {
  void* data = nullptr;
  size_t bytes = 0;
  explicit Open(const at::Tensor& tensor, bool checked = true) {
    if (tensor.device().type() != kSim || !tensor.storage().nbytes()) return;
    data = const_cast<void*>(tensor.storage().data());
    if (checked) refuseUse(data);
    bytes = whole(tensor.storage().nbytes());
    mprotect(data, bytes, PROT_READ | PROT_WRITE);
  }
  ~Open() {
    if (data) mprotect(data, bytes, PROT_NONE);
  }
};

/** The same memory as a tensor of the CPU; to be read while an `Open` of it lives. */
at::Tensor onHost(const at::Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  char* data = const_cast<char*>(static_cast<const char*>(tensor.storage().data()));
  return at::from_blob(data + tensor.storage_offset() * tensor.itemsize(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

// ------------------------------------------------------------------------------------------- copies and new tensors

void copyNow(const at::Tensor& self, const at::Tensor& into, bool checked = true) {
  Open from(self, checked), to(into, checked);
  onHost(into).copy_(onHost(self));
}

/** Spoils what a late copy will fill, so that nobody reads the right numbers too early. */
void spoil(const at::Tensor& into) {
  Open open(into, false);
  const auto tensor = onHost(into);
  if (tensor.is_contiguous()) std::memset(tensor.data_ptr(), 0xAB, tensor.nbytes());
}

Operand operandOf(const at::Tensor& tensor) {
  Operand found;
  found.sizes = tensor.sizes().vec();
  found.strides = tensor.strides().vec();
  found.offset = tensor.storage_offset();
  found.options = tensor.options();
  if (!tensor.storage().nbytes() || tensor.is_cpu() || recorded->memory.count(tensor.storage().data())) found.own = tensor;
  else found.storage = tensor.storage().getWeakStorageImpl();
  return found;
}

at::Tensor at_operand(const Operand& operand) {
  if (operand.own.defined()) return operand.own;
  auto storage = operand.storage.lock();
  TORCH_CHECK(storage, "sim: a replay reads memory that was let go since it was recorded");
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(std::move(storage)), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                                         operand.options.dtype());
  tensor.unsafeGetTensorImpl()->set_storage_offset(operand.offset);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(operand.sizes, operand.strides);
  return tensor;
}

/** Notes a copy within the device. */
void recordCopy(const at::Tensor& self, const at::Tensor& into) {
  const auto from = operandOf(self), to = operandOf(into);
  recorded->work.push_back([from, to] { copyNow(at_operand(from), at_operand(to)); });
}

at::Tensor copyFrom(const at::Tensor& self, const at::Tensor& into, bool nonBlocking) {
  const bool in = self.is_cpu(), out = into.is_cpu();
  if (!inOperator && (in || out)) refuseWhileRecording("a copy from or to the host");
  if (!inOperator && recorded) {
    recordCopy(self, into);
    copyNow(self, into);
    return into;
  }
  if (!inOperator) (in ? counts.toDevice : out ? counts.toHost : counts.within)++;
  if (!inOperator && (in || out)) trace.push_back(in ? "to the device" : "to the host");
  const bool late = nonBlocking && !inOperator && ((in && pinned.count(self.storage().data())) || (out && pinned.count(into.storage().data())));
  if (!late) {
    drain();
    if (out && !inOperator) trace.push_back("the host waits");
    copyNow(self, into);
    return into;
  }
  spoil(into);
  if (in) blocks.at(const_cast<void*>(into.storage().data())).unfilled++;
  queues[current].work.push_back([self, into, in] {
    if (in) blocks.at(const_cast<void*>(into.storage().data())).unfilled--;
    else TORCH_CHECK(blocks.at(const_cast<void*>(self.storage().data())).unfilled == 0, "sim: a result is read before the copy into it has ended");
    copyNow(self, into, false);
  });
  return into;
}

at::Tensor copyFromAndResize(const at::Tensor& self, const at::Tensor& into) {
  into.resize_(self.sizes());
  return copyFrom(self, into, false);
}

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> type, std::optional<c10::Layout>, std::optional<c10::Device>,
                 std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(type), format);
}

at::Tensor emptyStrided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> type, std::optional<c10::Layout>,
                        std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(type));
}

at::Scalar localScalar(const at::Tensor& tensor) { return tensor.cpu().item(); }

// --------------------------------------------------------------------------------------------------------- operators

bool isView(const c10::FunctionSchema& schema) {
  for (const auto& result : schema.returns())
    if (result.alias_info() && !result.alias_info()->isWrite()) return true;
  return false;
}

void refuseHostOperand(const c10::OperatorHandle& op, const at::Tensor& tensor) {
  // One number of the host may go along, as to a GPU; a whole tensor must not.
  TORCH_CHECK(!tensor.defined() || tensor.device().type() == kSim || tensor.dim() == 0, op.schema().name(), ": an operand of shape ",
              tensor.sizes(), " lies on ", tensor.device(), ", expected it on ", device);
}

/** Operators that a test falsifies: by what they multiply their results. */
std::map<std::string, double>& factors = *new std::map<std::string, double>();

double factorOf(const c10::FunctionSchema& schema) {
  const auto found = factors.find(schema.name());
  return found == factors.end() ? 1 : found->second;
}

/** Real tensors of the device in a value, which may be a list. */
void collect(const c10::IValue& value, std::vector<at::Tensor>& into) {
  if (value.isTensor() && value.toTensor().defined() && value.toTensor().is_floating_point()) into.push_back(value.toTensor());
  if (value.isTensorList())
    for (const at::Tensor& tensor : value.toTensorList()) into.push_back(tensor);
}

/** What a call writes: those of its arguments that it changes in place. */
std::vector<at::Tensor> writtenBy(const c10::FunctionSchema& schema, const torch::jit::Stack& stack) {
  std::vector<at::Tensor> found;
  const auto given = torch::jit::last(stack, schema.arguments().size());
  for (size_t i = 0; i < given.size(); i++)
    if (schema.arguments()[i].alias_info() && schema.arguments()[i].alias_info()->isWrite()) collect(given[i], found);
  return found;
}

void falsify(const std::vector<at::Tensor>& tensors, double factor) {
  for (const auto& tensor : tensors) {
    if (!tensor.is_floating_point()) continue;
    Open open(tensor);
    onHost(tensor).mul_(factor);
  }
}

/** What a GPU's kernels refuse and a CPU's do not. */
void refuseAsGpu(const c10::FunctionSchema& schema, const torch::jit::Stack& stack) {
  const auto given = torch::jit::last(stack, schema.arguments().size());
  if (schema.name() == "aten::native_layer_norm" && given[2].isTensor() && given[2].toTensor().defined())
    TORCH_CHECK(given[0].toTensor().scalar_type() == given[2].toTensor().scalar_type(), "expected scalar type ", given[0].toTensor().scalar_type(),
                " but found ", given[2].toTensor().scalar_type());
}

/** Puts noted operands in the place of tensors, alone and in lists. */
struct Argument {
  c10::IValue plain;
  std::vector<Operand> tensors;
  bool isTensor = false, isList = false;
  c10::IValue value() const {
    if (isTensor) return at_operand(tensors[0]);
    if (!isList) return plain;
    c10::List<at::Tensor> list;
    for (const auto& one : tensors) list.push_back(at_operand(one));
    return list;
  }
};

Argument argumentOf(const c10::IValue& value) {
  Argument found;
  found.isTensor = value.isTensor() && value.toTensor().defined();
  found.isList = value.isTensorList();
  if (found.isTensor) found.tensors.push_back(operandOf(value.toTensor()));
  else if (found.isList) for (const at::Tensor& one : value.toTensorList()) found.tensors.push_back(operandOf(one));
  else found.plain = value;
  return found;
}

std::vector<at::Tensor> tensorsOf(const c10::IValue& value) {
  if (value.isTensor() && value.toTensor().defined()) return {value.toTensor()};
  std::vector<at::Tensor> found;
  if (value.isTensorList()) for (const at::Tensor& one : value.toTensorList()) found.push_back(one);
  return found;
}

/** Notes a call with the results that it gave: a replay makes it again and puts what it gives where those lie. */
void recordCall(const c10::OperatorHandle& op, const std::vector<Argument>& arguments, c10::ArrayRef<c10::IValue> results) {
  std::vector<std::vector<at::Tensor>> into;
  for (const auto& value : results) into.push_back(tensorsOf(value));
  recorded->work.push_back([op, arguments, into] {
    torch::jit::Stack stack;
    for (const auto& argument : arguments) stack.push_back(argument.value());
    op.callBoxed(stack);
    for (size_t i = 0; i < into.size(); i++) {
      const auto found = tensorsOf(stack[i]);
      for (size_t j = 0; j < found.size(); j++)
        if (found[j].storage().data() != into[i][j].storage().data()) copyNow(found[j], into[i][j]);
    }
  });
}

/** Runs a boxed call of the device as itself, or notes it for the recording under way. */
template <typename F>
void orRecord(const c10::OperatorHandle& op, torch::jit::Stack* stack, F&& run) {
  if (!recorded || inOperator) return run();
  std::vector<Argument> arguments;
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) arguments.push_back(argumentOf(value));
  std::vector<std::pair<at::Tensor, at::Tensor>> before;  // nothing outside of the recording changes while it is made
  for (size_t i = 0; i < arguments.size(); i++)
    if (op.schema().arguments()[i].alias_info() && op.schema().arguments()[i].alias_info()->isWrite())
      for (const auto& tensor : tensorsOf(torch::jit::last(*stack, arguments.size())[i]))
        if (!recorded->memory.count(tensor.storage().data())) {
          Open open(tensor);
          before.emplace_back(tensor, onHost(tensor).clone());
        }
  run();
  recordCall(op, arguments, torch::jit::last(*stack, op.schema().returns().size()));
  for (const auto& [tensor, values] : before) {
    Open open(tensor);
    onHost(tensor).copy_(values);
  }
}

void computeNow(const c10::OperatorHandle& op, torch::jit::Stack* stack);

/** Any operator, as one call of the device. */
void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  orRecord(op, stack, [&] { computeNow(op, stack); });
}

void computeNow(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  TORCH_CHECK(!isView(op.schema()), op.schema().name(), " gives a view, for which sim has no kernel");
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (value.isTensor()) refuseHostOperand(op, value.toTensor());
    if (value.isTensorList())
      for (const at::Tensor& tensor : value.toTensorList()) refuseHostOperand(op, tensor);
  }
  const bool nested = inOperator;
  drain();
  if (!nested && !replaying) {
    counts.operators++;
    calls[op.schema().overload_name().empty() ? op.schema().name() : op.schema().name() + "." + op.schema().overload_name()]++;
  }
  refuseAsGpu(op.schema(), *stack);
  const double factor = factorOf(op.schema());
  const auto written = factor == 1 ? std::vector<at::Tensor>() : writtenBy(op.schema(), *stack);
  inOperator = true;
  try {
    at::native::cpu_fallback(op, stack);
    if (factor != 1) {
      std::vector<at::Tensor> results = written;
      if (written.empty())
        for (const auto& value : torch::jit::last(*stack, op.schema().returns().size())) collect(value, results);
      falsify(results, factor);
    }
  } catch (...) {
    inOperator = nested;
    throw;
  }
  inOperator = nested;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &emptyStrided);
  library.impl("_copy_from", &copyFrom);
  library.impl("_copy_from_and_resize", &copyFromAndResize);
  library.impl("_local_scalar_dense", &localScalar);
  // Views move nothing: those that libtorch writes for each device by itself.
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("view_as_real", &at::native::view_as_real);
  library.impl("view_as_complex", &at::native::view_as_complex);
  library.impl("unfold", &at::native::unfold);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("resize_", &at::native::resize_);
  library.impl("set_.source_Tensor", &at::native::set_tensor_);
  library.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  // What CUDA has one kernel for and libtorch otherwise puts together of many.
  for (const char* name : {"native_layer_norm", "native_layer_norm_backward", "index_add", "logsumexp", "gelu", "gelu_backward", "linalg_vector_norm", "mv",
                           "_foreach_norm.Scalar", "_foreach_mul_.Scalar", "_foreach_mul_.Tensor",
                           "_foreach_mul.Scalar", "_foreach_add_.List", "_foreach_add_.Scalar", "_foreach_lerp_.Scalar", "_foreach_lerp_.List",
                           "_foreach_copy_", "_foreach_addcmul_.Scalar", "_foreach_zero_"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&compute>());
}

// ----------------------------------------------------------------------------- attention over sequences one by one

/** The tensors of a call, readable for as long as this lives. */
struct Call {
  std::vector<at::Tensor> own;
  std::deque<Open> open;
  at::Tensor operator()(const c10::IValue& value) {
    own.push_back(value.toTensor());
    TORCH_CHECK(own.back().device().type() == kSim, "an operand of attention lies on ", own.back().device());
    open.emplace_back(own.back());
    return onHost(own.back());
  }
  at::Tensor fresh(c10::IntArrayRef size, c10::ScalarType type) {
    auto tensor = at::empty(size, at::TensorOptions().dtype(type).device(device));
    own.push_back(tensor);
    open.emplace_back(tensor);
    return tensor;
  }
};

/** Rows of a sequence, head by head, as float64: [T, H, K] → [H, N, K]. */
at::Tensor sequence(const at::Tensor& x, int64_t from, int64_t to) {
  return x.slice(0, from, to).transpose(0, 1).to(at::kDouble);
}

/** Where sequences begin and end; refuses what CUDA's kernels refuse. */
std::vector<int64_t> startsOf(const at::Tensor& at, int64_t most, int64_t rows) {
  TORCH_CHECK(at.dim() == 1 && at.scalar_type() == at::kInt, "expected int32 starts of sequences");
  std::vector<int64_t> out;
  for (int64_t i = 0; i < at.numel(); i++) out.push_back(at.data_ptr<int32_t>()[i]);
  TORCH_CHECK(out.front() == 0 && out.back() == rows, "the sequences end at ", out.back(), " of ", rows, " rows");
  for (size_t i = 1; i < out.size(); i++) TORCH_CHECK(out[i] - out[i - 1] <= most, "a sequence is longer than ", most);
  return out;
}

/** x [T, H, K] of queries, keys, values → the result; `lse(i, from, to, values [H, N])` takes the statistics. */
template <typename F>
void forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::vector<int64_t>& starts, at::Tensor out, F&& lse,
             double factor) {
  for (size_t i = 0; i + 1 < starts.size(); i++) {
    const auto [from, to] = std::pair(starts[i], starts[i + 1]);
    const auto s = at::matmul(sequence(q, from, to), sequence(k, from, to).transpose(1, 2)) / std::sqrt(double(q.size(2)));
    out.slice(0, from, to).copy_(at::matmul(at::softmax(s, -1), sequence(v, from, to)).transpose(0, 1) * factor);
    lse(static_cast<int64_t>(i), from, to, at::logsumexp(s, {-1}));
  }
}

/** Gradients from the statistics of the forward half, `lse(i, from, to)` → [H, N]. */
template <typename F>
void backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
              const std::vector<int64_t>& starts, std::array<at::Tensor, 3> into, F&& lse) {
  const double scale = 1 / std::sqrt(double(q.size(2)));
  for (size_t i = 0; i + 1 < starts.size(); i++) {
    const auto [from, to] = std::pair(starts[i], starts[i + 1]);
    const auto d = sequence(dout, from, to), o = sequence(out, from, to), a = sequence(q, from, to), b = sequence(k, from, to);
    const auto p = at::exp(at::matmul(a, b.transpose(1, 2)) * scale - lse(static_cast<int64_t>(i), from, to).to(at::kDouble).unsqueeze(-1));
    const auto ds = p * (at::matmul(d, sequence(v, from, to).transpose(1, 2)) - (d * o).sum(-1, true)) * scale;
    into[0].slice(0, from, to).copy_(at::matmul(ds, b).transpose(0, 1));
    into[1].slice(0, from, to).copy_(at::matmul(ds.transpose(1, 2), a).transpose(0, 1));
    into[2].slice(0, from, to).copy_(at::matmul(p.transpose(1, 2), d).transpose(0, 1));
  }
}

std::vector<c10::IValue> argumentsOf(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  drain();
  if (!replaying) {
    counts.operators++;
    calls[op.schema().name()]++;
  }
  return torch::jit::pop(*stack, op.schema().arguments().size());
}

void refuseDropout(const c10::IValue& p) { TORCH_CHECK(p.toDouble() == 0, "sim has no dropout"); }

int64_t padded(int64_t rows) { return (rows + 31) / 32 * 32; }

/** aten::_efficient_attention_forward: query, key, value, bias, starts ×2, longest ×2, dropout, mask type, with statistics. */
void efficientForward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto a = argumentsOf(op, stack);
  Call call;
  const auto q = call(a[0]), k = call(a[1]), v = call(a[2]);
  TORCH_CHECK(q.dim() == 4 && q.size(0) == 1 && q.stride(3) == 1, "expected [1, T, H, K] with numbers of a head side by side");
  TORCH_CHECK(a[3].isNone() && a[9].toInt() == 0 && a[10].toBool(), "expected no bias, no mask, and statistics");
  refuseDropout(a[8]);
  const int64_t T = q.size(1), H = q.size(2), most = a[6].toInt();
  const auto starts = startsOf(call(a[4]), most, T);
  const int64_t B = static_cast<int64_t>(starts.size()) - 1;
  const auto out = call.fresh({1, T, H, q.size(3)}, q.scalar_type()), lse = call.fresh({B, H, padded(most)}, at::kFloat);
  auto statistics = onHost(lse);
  statistics.fill_(INFINITY);
  forward(q[0], k[0], v[0], starts, onHost(out)[0],
          [&](int64_t i, int64_t from, int64_t to, const at::Tensor& values) { statistics[i].slice(1, 0, to - from).copy_(values); },
          factorOf(op.schema()));
  const auto seed = call.fresh({}, at::kLong), offset = call.fresh({}, at::kLong);
  torch::jit::push(*stack, out, lse, seed, offset, most, most);
}

/** aten::_efficient_attention_backward: gradient, query, key, value, bias, result, starts ×2, longest ×2, statistics, … */
void efficientBackward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto a = argumentsOf(op, stack);
  Call call;
  const auto d = call(a[0]), q = call(a[1]), k = call(a[2]), v = call(a[3]), out = call(a[5]), lse = call(a[10]);
  refuseDropout(a[11]);
  TORCH_CHECK(a[4].isNone() && a[14].toInt() == 0 && !a[15].toBool(), "expected no bias and no mask");
  TORCH_CHECK(d.sizes() == q.sizes() && out.sizes() == q.sizes(), "expected the gradient and the result as the queries are");
  const auto starts = startsOf(call(a[6]), a[8].toInt(), q.size(1));
  TORCH_CHECK(lse.size(0) == static_cast<int64_t>(starts.size()) - 1 && lse.size(2) == padded(a[8].toInt()), "statistics of another call");
  std::array<at::Tensor, 3> grads, into;
  for (int i = 0; i < 3; i++) into[i] = onHost(grads[i] = call.fresh(q.sizes(), q.scalar_type()))[0];
  backward(d[0], q[0], k[0], v[0], out[0], starts, into,
           [&](int64_t i, int64_t from, int64_t to) { return lse[i].slice(1, 0, to - from); });
  if (factorOf(op.schema()) != 1) into[0].mul_(factorOf(op.schema()));
  torch::jit::push(*stack, grads[0], grads[1], grads[2], at::Tensor());
}

void refuseFlash(const at::Tensor& q) {
  TORCH_CHECK(q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf, "FlashAttention only supports fp16 and bf16");
  TORCH_CHECK(q.dim() == 3 && q.stride(2) == 1 && q.size(2) % 8 == 0, "expected [T, H, K], K a multiple of 8");
}

/** aten::_flash_attention_forward: query, key, value, starts ×2, longest ×2, dropout, causal, with weights. */
void flashForward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto a = argumentsOf(op, stack);
  Call call;
  const auto q = call(a[0]), k = call(a[1]), v = call(a[2]);
  refuseFlash(q);
  refuseDropout(a[7]);
  TORCH_CHECK(!a[8].toBool() && !a[9].toBool(), "expected no mask, and no weights");
  const auto starts = startsOf(call(a[3]), a[5].toInt(), q.size(0));
  const auto out = call.fresh(q.sizes(), q.scalar_type()), lse = call.fresh({q.size(1), q.size(0)}, at::kFloat);
  auto statistics = onHost(lse);
  forward(q, k, v, starts, onHost(out),
          [&](int64_t, int64_t from, int64_t to, const at::Tensor& values) { statistics.slice(1, from, to).copy_(values); },
          factorOf(op.schema()));
  torch::jit::push(*stack, out, lse, call.fresh({2}, at::kLong), call.fresh({}, at::kLong), call.fresh({0}, q.scalar_type()));
}

/** aten::_flash_attention_backward: gradient, query, key, value, result, statistics, starts ×2, longest ×2, dropout, causal, … */
void flashBackward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto a = argumentsOf(op, stack);
  Call call;
  const auto d = call(a[0]), q = call(a[1]), k = call(a[2]), v = call(a[3]), out = call(a[4]), lse = call(a[5]);
  refuseFlash(q);
  refuseDropout(a[10]);
  const auto starts = startsOf(call(a[6]), a[8].toInt(), q.size(0));
  TORCH_CHECK(lse.size(0) == q.size(1) && lse.size(1) == q.size(0), "statistics of another call");
  std::array<at::Tensor, 3> grads, into;
  for (int i = 0; i < 3; i++) into[i] = onHost(grads[i] = call.fresh(q.sizes(), q.scalar_type()));
  backward(d, q, k, v, out, starts, into, [&](int64_t, int64_t from, int64_t to) { return lse.slice(1, from, to); });
  if (factorOf(op.schema()) != 1) into[0].mul_(factorOf(op.schema()));
  torch::jit::push(*stack, grads[0], grads[1], grads[2]);
}

template <void (*Run)(const c10::OperatorHandle&, torch::jit::Stack*)>
void recordable(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  orRecord(op, stack, [&] { Run(op, stack); });
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("_efficient_attention_forward", torch::CppFunction::makeFromBoxedFunction<&recordable<&efficientForward>>());
  library.impl("_efficient_attention_backward", torch::CppFunction::makeFromBoxedFunction<&recordable<&efficientBackward>>());
  library.impl("_flash_attention_forward", torch::CppFunction::makeFromBoxedFunction<&recordable<&flashForward>>());
  library.impl("_flash_attention_backward", torch::CppFunction::makeFromBoxedFunction<&recordable<&flashBackward>>());
}

// ------------------------------------------------------------------------------------------------ several processes

/** A collective that begins, as one that is done at once: waits on the host, and gives 0 for the number to wait for. */
void beginAndWait(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto x = argumentsOf(op, stack)[0].toTensor();
  at::Tensor own;
  {
    Open open(x);
    own = onHost(x).clone();
  }
  torch::jit::Stack inner{own};
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &inner);
  torch::jit::Stack number{inner[1]};
  c10::Dispatcher::singleton().findSchemaOrThrow("dinov2_processes::wait", "").callBoxed(&number);
  const auto found = inner[0].toTensor();
  auto out = at::empty(found.sizes(), found.options().device(device));
  {
    Open open(out);
    onHost(out).copy_(found);
  }
  torch::jit::push(*stack, out, int64_t(0));
}

/** NCCL's place: the addon of processes computes them between CPUs. */
TORCH_LIBRARY_IMPL(dinov2_processes, PrivateUse1, library) {
  for (const char* name : {"all_reduce", "broadcast", "all_gather"}) library.impl(name, torch::CppFunction::makeFromBoxedFunction<&compute>());
  for (const char* name : {"begin_all_gather", "begin_all_to_all"}) library.impl(name, torch::CppFunction::makeFromBoxedFunction<&beginAndWait>());
}

// --------------------------------------------------------------------------------------------------- recorded passes

int64_t beginRecording(const at::Tensor& x) {
  TORCH_CHECK(!recorded && x.device().type() == kSim, "sim: one pass of the device is recorded at a time");
  static int64_t next = 0;
  static const c10::StreamId own = 1 << 20;
  drainAll();
  recorded = &recordings[next];
  recorded->before = current;
  current = own;
  return next++;
}

void endRecording(int64_t number) {
  auto& one = recordings.at(number);
  TORCH_CHECK(recorded == &one, "sim: recording ", number, " has ended before");
  // Nothing has run on a GPU: what was given out holds no results.
  for (const void* data : one.memory) {
    const auto found = blocks.find(const_cast<void*>(data));
    if (found == blocks.end()) continue;
    mprotect(found->first, whole(found->second.bytes), PROT_READ | PROT_WRITE);
    std::memset(found->first, 0xFF, found->second.bytes);
    mprotect(found->first, whole(found->second.bytes), PROT_NONE);
  }
  current = one.before;
  one.ended = true;
  recorded = nullptr;
}

void replayRecording(int64_t number) {
  auto& one = recordings.at(number);
  TORCH_CHECK(one.ended, "sim: recording ", number, " has not ended");
  refuseWhileRecording("a replay");
  drain();
  counts.operators++;
  calls["replay"]++;
  replaying = true;
  const bool nested = inOperator;
  try {
    for (size_t i = 0; i < one.work.size(); i++)
      if (forgetful != "graphs" || 2 * i < one.work.size()) one.work[i]();
  } catch (...) {
    replaying = false;
    inOperator = nested;
    throw;
  }
  replaying = false;
}

void releaseRecording(int64_t number) {
  auto& one = recordings.at(number);
  if (recorded == &one) endRecording(number);
  drainAll();
  one.work.clear();  // which lets its tensors go while their memory is still known
  recordings.erase(number);
}

TORCH_LIBRARY(dinov2_graphs, library) {
  library.def("begin(Tensor x) -> int", beginRecording);
  library.def("end(int number) -> ()", endRecording);
  library.def("replay(int number) -> ()", replayRecording);
  library.def("release(int number) -> ()", releaseRecording);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kSim; }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  static c10::Stream stream(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, device, id); }
  c10::Stream getStream(c10::Device) const override { return stream(current); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override {
    static c10::StreamId last = 0;
    return stream(++last);
  }
  c10::Stream exchangeStream(c10::Stream next) const override {
    const auto before = stream(current);
    current = next.id();
    return before;
  }
  void record(void** event, const c10::Stream& at, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (!*event) *event = new Event();
    *static_cast<Event*>(*event) = {at.id(), queues[at.id()].asked()};
  }
  void block(void* event, const c10::Stream& at) const override {
    if (forgetful == "streams") return;
    const auto known = *static_cast<Event*>(event);
    queues[at.id()].work.push_back([known] { runTo(known.stream, known.place); });
  }
  /** The device comes to an event when it was asked for it twice. */
  bool queryEvent(void* event) const override {
    refuseWhileRecording("a question for an event");
    auto& known = *static_cast<Event*>(event);
    if (queues[known.stream].done >= known.place) return true;
    if (++known.queries < 3) return false;
    trace.push_back("the host finds it done");
    runTo(known.stream, known.place);
    return true;
  }
  void synchronizeEvent(void* event) const override {
    refuseWhileRecording("waiting for an event");
    const auto& known = *static_cast<Event*>(event);
    if (forgetful == "host" || queues[known.stream].done >= known.place) return;
    trace.push_back("the host waits");
    runTo(known.stream, known.place);
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& at) const override { allocator.recordStream(data, at); }
  bool queryStream(const c10::Stream& at) const override { return queues[at.id()].work.empty(); }
  void synchronizeStream(const c10::Stream& at) const override { refuseWhileRecording("waiting for a stream"), runTo(at.id(), queues[at.id()].asked()); }
  void synchronizeDevice(const c10::DeviceIndex) const override { refuseWhileRecording("waiting for the device"), drainAll(); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isPinnedPtr(const void* data) const override { return pinned.count(data) > 0; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinnedAllocator; }
} hooks;

// -------------------------------------------------------------------------------------------------------- JavaScript

void set(napi_env env, napi_value object, const char* name, double value) {
  napi_value number;
  napi_create_double(env, value, &number);
  napi_set_named_property(env, object, name, number);
}

/** counts() → {toDevice, toHost, within, operators, bytes, calls: {name: times}, trace: […]} since the last reset. */
napi_value readCounts(napi_env env, napi_callback_info) {
  drainAll();  // which lets go what late copies hold
  napi_value out, names;
  napi_create_object(env, &out);
  napi_create_object(env, &names);
  set(env, out, "toDevice", counts.toDevice);
  set(env, out, "toHost", counts.toHost);
  set(env, out, "within", counts.within);
  set(env, out, "operators", counts.operators);
  set(env, out, "bytes", static_cast<double>(held.current));
  for (const auto& [name, times] : calls) set(env, names, name.c_str(), times);
  napi_set_named_property(env, out, "calls", names);
  napi_value events;
  napi_create_array(env, &events);
  for (uint32_t i = 0; i < trace.size(); i++) {
    napi_value text;
    napi_create_string_utf8(env, trace[i].data(), trace[i].size(), &text);
    napi_set_element(env, events, i, text);
  }
  napi_set_named_property(env, out, "trace", events);
  return out;
}

napi_value reset(napi_env, napi_callback_info) {
  counts = Counts();
  calls.clear();
  trace.clear();
  return nullptr;
}

/** forget(who): `streams`, `host`, `allocator` or `graphs` do wrong from now on; an empty name ends it. */
napi_value forget(napi_env env, napi_callback_info info) {
  size_t count = 1, length = 0;
  napi_value value;
  char name[32];
  napi_get_cb_info(env, info, &count, &value, nullptr, nullptr);
  napi_get_value_string_utf8(env, value, name, sizeof(name), &length);
  forgetful.assign(name, length);
  return nullptr;
}

/** setLimit(bytes): memory of the device from now on; 0 for all of it. */
napi_value setLimit(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value value;
  double bytes = 0;
  napi_get_cb_info(env, info, &count, &value, nullptr, nullptr);
  napi_get_value_double(env, value, &bytes);
  limit = bytes > 0 ? static_cast<size_t>(bytes) : kWhole;
  return nullptr;
}

/** falsify(operator, factor): multiplies all that `aten::operator` gives or changes from now on; 1 leaves it as it is. */
napi_value falsifyOperator(napi_env env, napi_callback_info info) {
  size_t count = 2, length = 0;
  napi_value values[2];
  napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
  char name[128];
  double factor = 1;
  napi_get_value_string_utf8(env, values[0], name, sizeof(name), &length);
  napi_get_value_double(env, values[1], &factor);
  factors["aten::" + std::string(name, length)] = factor;
  return nullptr;
}

/** uncoveredViews() → names of operators that give views, for which neither sim nor a form for all devices is there. */
napi_value uncoveredViews(napi_env env, napi_callback_info) {
  napi_value out;
  napi_create_array(env, &out);
  uint32_t i = 0;
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    const auto op = c10::Dispatcher::singleton().findSchema(name);
    if (!op || !isView(op->schema()) || op->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1) ||
        op->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutograd) ||
        op->hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd))
      continue;
    const std::string full = name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
    napi_value text;
    napi_create_string_utf8(env, full.data(), full.size(), &text);
    napi_set_element(env, out, i++, text);
  }
  return out;
}

napi_value init(napi_env env, napi_value exports) {
  static bool registered = false;
  if (!registered) {
    c10::register_privateuse1_backend("sim");
    c10::SetAllocator(kSim, &allocator);
    at::RegisterPrivateUse1HooksInterface(&hooks);
    registered = true;
  }
  const std::pair<const char*, napi_callback> functions[] = {
      {"counts", readCounts}, {"reset", reset}, {"setLimit", setLimit}, {"forget", forget}, {"falsify", falsifyOperator}, {"uncoveredViews", uncoveredViews}};
  for (const auto& [name, function] : functions) {
    napi_value value;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
    napi_set_named_property(env, exports, name, value);
  }
  return exports;
}

}  // namespace

NAPI_MODULE(sim, init)
