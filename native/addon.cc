/**
 * The door between Node and libtorch: tensors by handle and one generic operator call.
 *
 * Any ATen operator is found by name and overload in the dispatcher; JavaScript values become what the operator's own
 * schema asks for; the call is boxed; results come back as handles. No operator needs a line of C++ here. All calls
 * run on the thread that loads the addon, without autograd: gradients are the business of the TypeScript side.
 */
#define NAPI_VERSION 8
#include <node_api.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "copies.h"
#include "memory.h"

namespace {

using c10::IValue;

// ----------------------------------------------------------------------------------------------------------------
// handles

/**
 * Tensors that JavaScript holds. Slot 0 stays empty, so that 0 can stand for "no tensor".
 * Never destroyed: at exit libtorch's own state may be gone before these.
 */
std::vector<at::Tensor>& slots = *new std::vector<at::Tensor>(1);
std::vector<uint32_t>& freeSlots = *new std::vector<uint32_t>();
size_t liveTensors = 0;
c10::Device currentDevice(c10::kCPU);

uint32_t keep(at::Tensor tensor) {
  liveTensors++;
  if (!freeSlots.empty()) {
    const uint32_t id = freeSlots.back();
    freeSlots.pop_back();
    slots[id] = std::move(tensor);
    return id;
  }
  slots.push_back(std::move(tensor));
  return static_cast<uint32_t>(slots.size() - 1);
}

/** The allocator of the current device, which counts; a CPU's is in memory.cc. */
c10::DeviceAllocator* deviceAllocator() {
  return currentDevice.is_cpu() ? nullptr : dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(currentDevice.type()));
}

const at::Tensor& at_handle(double value) {
  const auto id = static_cast<size_t>(value);
  TORCH_CHECK(value >= 1 && id < slots.size() && slots[id].defined(), "tensor handle ", value, " is not alive");
  return slots[id];
}

// -------------------------------------------------------------------------------------------------------------
// JavaScript

struct JsError {};  // an exception is already pending on the JavaScript side

void check(napi_env env, napi_status status, const char* what) {
  if (status == napi_ok) return;
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (!pending) napi_throw_type_error(env, "TORCH_ARGUMENT", what);
  throw JsError{};
}

std::string text(napi_env env, napi_value value) {
  size_t length = 0;
  check(env, napi_get_value_string_utf8(env, value, nullptr, 0, &length), "expected a string");
  std::string out(length, '\0');
  check(env, napi_get_value_string_utf8(env, value, out.data(), length + 1, &length), "expected a string");
  return out;
}

double number(napi_env env, napi_value value) {
  double out = 0;
  check(env, napi_get_value_double(env, value, &out), "expected a number");
  return out;
}

bool boolean(napi_env env, napi_value value) {
  bool out = false;
  check(env, napi_get_value_bool(env, value, &out), "expected true or false");
  return out;
}

napi_valuetype kind(napi_env env, napi_value value) {
  napi_valuetype type;
  check(env, napi_typeof(env, value, &type), "unreadable value");
  return type;
}

bool absent(napi_env env, napi_value value) {
  const auto type = kind(env, value);
  return type == napi_null || type == napi_undefined;
}

std::vector<napi_value> list(napi_env env, napi_value value) {
  bool isArray = false;
  napi_is_array(env, value, &isArray);
  TORCH_CHECK(isArray, "expected an array");
  uint32_t length = 0;
  check(env, napi_get_array_length(env, value, &length), "expected an array");
  std::vector<napi_value> out(length);
  for (uint32_t i = 0; i < length; i++) check(env, napi_get_element(env, value, i, &out[i]), "unreadable element");
  return out;
}

napi_value js(napi_env env, double value) {
  napi_value out;
  napi_create_double(env, value, &out);
  return out;
}

napi_value js(napi_env env, const std::string& value) {
  napi_value out;
  napi_create_string_utf8(env, value.data(), value.size(), &out);
  return out;
}

napi_value shapeOf(napi_env env, at::IntArrayRef sizes) {
  napi_value out;
  napi_create_array_with_length(env, sizes.size(), &out);
  for (size_t i = 0; i < sizes.size(); i++) napi_set_element(env, out, i, js(env, static_cast<double>(sizes[i])));
  return out;
}

// ---------------------------------------------------------------------------------------------------------- the
// operators

struct Operator {
  c10::OperatorHandle handle;
  std::string name;
};
std::deque<Operator>& operators = *new std::deque<Operator>();

at::Scalar scalar(napi_env env, napi_value value) {
  if (kind(env, value) == napi_boolean) return at::Scalar(boolean(env, value));
  const double x = number(env, value);
  const bool whole = std::trunc(x) == x && std::fabs(x) < 9007199254740992.0 && !(x == 0 && std::signbit(x));
  return whole ? at::Scalar(static_cast<int64_t>(x)) : at::Scalar(x);
}

/** Turns one JavaScript value into what the schema names. Tensors are handles; 0, null and undefined mean none. */
IValue convert(napi_env env, napi_value value, const c10::TypePtr& type) {
  switch (type->kind()) {
    case c10::TypeKind::OptionalType: {
      if (absent(env, value)) return IValue();
      return convert(env, value, type->castRaw<c10::OptionalType>()->getElementType());
    }
    case c10::TypeKind::TensorType:
      if (absent(env, value)) return IValue(at::Tensor());
      return IValue(at_handle(number(env, value)));
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
    case c10::TypeKind::ScalarTypeType:
    case c10::TypeKind::LayoutType:
    case c10::TypeKind::MemoryFormatType:
      if (kind(env, value) == napi_boolean) return IValue(static_cast<int64_t>(boolean(env, value)));
      return IValue(static_cast<int64_t>(number(env, value)));
    case c10::TypeKind::FloatType:
      return IValue(number(env, value));
    case c10::TypeKind::BoolType:
      return IValue(boolean(env, value));
    case c10::TypeKind::NumberType:
      return IValue(scalar(env, value));
    case c10::TypeKind::StringType:
      return IValue(text(env, value));
    case c10::TypeKind::DeviceObjType:
      return IValue(c10::Device(text(env, value)));
    case c10::TypeKind::ListType: {
      const auto& element = type->castRaw<c10::ListType>()->getElementType();
      switch (element->kind()) {
        case c10::TypeKind::IntType:
        case c10::TypeKind::SymIntType: {
          if (kind(env, value) == napi_number) return IValue(std::vector<int64_t>{static_cast<int64_t>(number(env, value))});
          std::vector<int64_t> out;
          for (auto item : list(env, value)) out.push_back(static_cast<int64_t>(number(env, item)));
          return IValue(std::move(out));
        }
        case c10::TypeKind::FloatType: {
          std::vector<double> out;
          for (auto item : list(env, value)) out.push_back(number(env, item));
          return IValue(std::move(out));
        }
        case c10::TypeKind::BoolType: {
          c10::List<bool> out;
          for (auto item : list(env, value)) out.push_back(boolean(env, item));
          return IValue(std::move(out));
        }
        case c10::TypeKind::TensorType: {
          c10::List<at::Tensor> out;
          for (auto item : list(env, value)) out.push_back(at_handle(number(env, item)));
          return IValue(std::move(out));
        }
        default: {
          c10::impl::GenericList out(element);
          for (auto item : list(env, value)) out.push_back(convert(env, item, element));
          return IValue(std::move(out));
        }
      }
    }
    default:
      TORCH_CHECK(false, "arguments of type ", type->str(), " are not supported");
  }
}

napi_value convertBack(napi_env env, IValue& value) {
  napi_value out;
  if (value.isTensor()) {
    if (!value.toTensor().defined()) {
      napi_get_null(env, &out);
      return out;
    }
    return js(env, keep(std::move(value).toTensor()));
  }
  if (value.isNone()) {
    napi_get_null(env, &out);
    return out;
  }
  if (value.isDouble()) return js(env, value.toDouble());
  if (value.isInt()) return js(env, static_cast<double>(value.toInt()));
  if (value.isBool()) {
    napi_get_boolean(env, value.toBool(), &out);
    return out;
  }
  if (value.isScalar()) return js(env, value.toScalar().toDouble());
  if (value.isList()) {
    auto items = value.toListRef();
    napi_create_array_with_length(env, items.size(), &out);
    for (size_t i = 0; i < items.size(); i++) {
      IValue item = items[i];
      napi_set_element(env, out, i, convertBack(env, item));
    }
    return out;
  }
  TORCH_CHECK(false, "results of type ", value.tagKind(), " are not supported");
}

std::string describe(const IValue& value) {
  std::ostringstream out;
  if (value.isTensor()) {
    const auto& t = value.toTensor();
    if (!t.defined()) return "none";
    out << c10::toString(t.scalar_type()) << '[';
    for (int64_t i = 0; i < t.dim(); i++) out << (i ? ", " : "") << t.size(i);
    out << ']';
  } else if (value.isTensorList()) {
    out << value.toTensorList().size() << " tensors";
  } else if (value.isDouble() || value.isInt() || value.isBool() || value.isString() || value.isNone() || value.isIntList()) {
    out << value;
  } else {
    out << value.tagKind();
  }
  return out.str();
}

/** What a device has left and what its tensors hold, in bytes. */
struct DeviceMemory {
  double held = 0, peak = 0, reserved = 0, free = 0, total = 0;
};

DeviceMemory memoryOfDevice(c10::DeviceAllocator& allocator) {
  const auto index = currentDevice.has_index() ? currentDevice.index() : c10::DeviceIndex(0);
  const auto stats = allocator.getDeviceStats(index);
  DeviceMemory found;
  found.held = static_cast<double>(stats.allocated_bytes[0].current);
  found.peak = static_cast<double>(stats.allocated_bytes[0].peak);
  found.reserved = static_cast<double>(stats.reserved_bytes[0].current);
  const auto [free, total] = allocator.getMemoryInfo(index);
  // What the allocator keeps for reuse is as good as free to this process.
  found.free = static_cast<double>(free) + found.reserved - found.held;
  found.total = static_cast<double>(total);
  return found;
}

/** Throws a JavaScript error with a code; where the device has no memory left, with what it has and holds. */
void raise(napi_env env, const std::string& message, bool outOfMemory) {
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending) return;
  napi_value error;
  napi_create_error(env, js(env, std::string(outOfMemory ? "OUT_OF_MEMORY" : "TORCH")), js(env, message), &error);
  auto* allocator = outOfMemory ? deviceAllocator() : nullptr;
  if (allocator) try {
      const auto memory = memoryOfDevice(*allocator);
      napi_set_named_property(env, error, "device", js(env, currentDevice.str()));
      napi_set_named_property(env, error, "free", js(env, memory.free));
      napi_set_named_property(env, error, "held", js(env, memory.held));
    } catch (const std::exception&) {  // the message alone must do
    }
  napi_throw(env, error);
}

bool saysOutOfMemory(const std::string& message) {
  return message.find("ot enough memory") != std::string::npos || message.find("out of memory") != std::string::npos ||
         message.find("can't allocate memory") != std::string::npos;
}

/** Runs a binding; whatever is thrown becomes a JavaScript error. */
template <typename F>
napi_value guarded(napi_env env, F&& body) {
  try {
    return body();
  } catch (const JsError&) {
  } catch (const c10::Error& error) {
    const std::string message = error.what_without_backtrace();
    raise(env, message, saysOutOfMemory(message));
  } catch (const std::bad_alloc&) {
    raise(env, "not enough memory", true);
  } catch (const std::exception& error) {
    raise(env, error.what(), saysOutOfMemory(error.what()));
  }
  return nullptr;
}

template <size_t N>
struct Arguments {
  size_t count = N;
  napi_value values[N];
  Arguments(napi_env env, napi_callback_info info) { check(env, napi_get_cb_info(env, info, &count, values, nullptr, nullptr), "unreadable call"); }
  napi_value operator[](size_t i) const { return values[i]; }
};

/** resolve(name, overload) → number of the operator, for `call`. */
napi_value resolve(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments<2> args(env, info);
    const auto name = text(env, args[0]);
    const auto overload = text(env, args[1]);
    auto found = c10::Dispatcher::singleton().findSchema({name, overload});
    TORCH_CHECK(found.has_value(), "libtorch has no operator ", name, overload.empty() ? "" : ".", overload);
    operators.push_back({*found, overload.empty() ? name : name + "." + overload});
    return js(env, static_cast<double>(operators.size() - 1));
  });
}

/** schema(operator) → how libtorch declares it: `aten::relu(Tensor self) -> Tensor`. */
napi_value schema(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments<1> args(env, info);
    std::ostringstream out;
    out << operators.at(static_cast<size_t>(number(env, args[0]))).handle.schema();
    return js(env, out.str());
  });
}

/**
 * call(operator, ...arguments) → handle, number or null; where the operator returns several, an array of these, in which
 * whole numbers are BigInt.
 */
napi_value call(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments<40> args(env, info);
    const auto& op = operators.at(static_cast<size_t>(number(env, args[0])));
    const auto& schema = op.handle.schema();
    const auto& formal = schema.arguments();
    const size_t given = args.count - 1;
    torch::jit::Stack stack;
    stack.reserve(formal.size());
    try {
      TORCH_CHECK(given <= formal.size(), "takes ", formal.size(), " arguments but received ", given);
      for (size_t i = 0; i < formal.size(); i++) {
        const bool missing = i >= given || (kind(env, args[i + 1]) == napi_undefined);
        if (missing && formal[i].default_value()) {
          stack.push_back(*formal[i].default_value());
        } else if (missing && formal[i].type()->kind() == c10::TypeKind::OptionalType) {
          stack.emplace_back();
        } else {
          TORCH_CHECK(i < given, "argument '", formal[i].name(), "' is missing");
          stack.push_back(convert(env, args[i + 1], formal[i].type()));
        }
      }
      c10::InferenceMode guard;
      op.handle.callBoxed(stack);
    } catch (const JsError&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {  // of libtorch, or of a library below it such as oneDNN
      const auto* own = dynamic_cast<const c10::Error*>(&error);
      const std::string reason = own ? own->what_without_backtrace() : error.what();
      std::ostringstream message;
      message << op.name << ": " << reason.substr(0, reason.find("\nException raised from")) << "\n  called with (";
      for (size_t i = 0; i < stack.size(); i++) message << (i ? ", " : "") << describe(stack[i]);
      message << ")";
      raise(env, message.str(), saysOutOfMemory(reason));
      return nullptr;
    }
    if (stack.size() == 1) return convertBack(env, stack[0]);
    napi_value out;
    napi_create_array_with_length(env, stack.size(), &out);
    for (size_t i = 0; i < stack.size(); i++) {
      // Among several results a plain number would look like the handle of a tensor.
      napi_value item;
      if (stack[i].isInt()) napi_create_bigint_int64(env, stack[i].toInt(), &item);
      else item = convertBack(env, stack[i]);
      napi_set_element(env, out, i, item);
    }
    return out;
  });
}

// ---------------------------------------------------------------------------------------------------- in, out, let go

struct Bytes {
  void* data;
  size_t length;
};

Bytes bytesOf(napi_env env, napi_value value) {
  bool isTyped = false;
  napi_is_typedarray(env, value, &isTyped);
  TORCH_CHECK(isTyped, "expected a typed array");
  napi_typedarray_type type;
  size_t length, offset;
  void* data;
  napi_value buffer;
  check(env, napi_get_typedarray_info(env, value, &type, &length, &data, &buffer, &offset), "unreadable typed array");
  static const size_t widths[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  return {data, length * widths[type]};
}

/** A new tensor of the host; where it goes on to a GPU, in memory that the GPU reads while the host goes on. */
at::Tensor onHost(at::IntArrayRef shape, at::ScalarType type) {
  return at::empty(shape, at::TensorOptions().dtype(type).device(c10::kCPU).pinned_memory(dinov2::hasStreams(currentDevice)));
}

at::Tensor toDevice(at::Tensor tensor) {
  return currentDevice.is_cpu() ? tensor : tensor.to(currentDevice, /*non_blocking=*/dinov2::hasStreams(currentDevice));
}

/** fromBytes(typedArray, scalarType, shape) → handle of a tensor on the current device that holds a copy. */
napi_value fromBytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments<3> args(env, info);
    const auto bytes = bytesOf(env, args[0]);
    const auto type = static_cast<at::ScalarType>(static_cast<int>(number(env, args[1])));
    std::vector<int64_t> shape;
    for (auto item : list(env, args[2])) shape.push_back(static_cast<int64_t>(number(env, item)));
    c10::InferenceMode guard;
    auto tensor = onHost(shape, type);
    TORCH_CHECK(tensor.nbytes() == bytes.length, "a tensor of ", tensor.nbytes(), " bytes cannot be made from ", bytes.length);
    if (bytes.length) std::memcpy(tensor.data_ptr(), bytes.data, bytes.length);
    return js(env, keep(toDevice(std::move(tensor))));
  });
}

/** Where each part of `fromParts` begins: at a multiple of this many bytes, so that any scalar type can begin there. */
constexpr size_t kAlign = 16;

/**
 * fromParts(typedArrays, beside) → handle of one vector of bytes on the current device, all parts behind each other;
 * `beside`: copied while the device goes on with what it has to compute.
 */
napi_value fromParts(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments<2> args(env, info);
    std::vector<Bytes> parts;
    size_t total = 0;
    for (auto item : list(env, args[0])) {
      parts.push_back(bytesOf(env, item));
      total += (parts.back().length + kAlign - 1) / kAlign * kAlign;
    }
    const auto fill = [&parts](char* into) {
      for (const auto& part : parts) {
        if (part.length) std::memcpy(into, part.data, part.length);
        into += (part.length + kAlign - 1) / kAlign * kAlign;
      }
    };
    c10::InferenceMode guard;
    if (boolean(env, args[1]) && total > 0 && dinov2::hasStreams(currentDevice))
      return js(env, keep(dinov2::copyBeside(total, currentDevice, fill)));
    auto tensor = onHost({static_cast<int64_t>(total)}, at::kByte);
    fill(static_cast<char*>(tensor.data_ptr()));
    return js(env, keep(toDevice(std::move(tensor))));
  });
}

napi_value bufferOf(napi_env env, const at::Tensor& tensor) {
  void* data = nullptr;
  napi_value buffer;
  check(env, napi_create_arraybuffer(env, tensor.nbytes(), &data, &buffer), "not enough memory to read a tensor back");
  if (tensor.nbytes()) std::memcpy(data, tensor.data_ptr(), tensor.nbytes());
  return buffer;
}

/** toBytes(handle, scalarType) → ArrayBuffer with the values in row-major order, converted to that type. */
napi_value toBytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments<2> args(env, info);
    const auto type = static_cast<at::ScalarType>(static_cast<int>(number(env, args[1])));
    c10::InferenceMode guard;
    return bufferOf(env, at_handle(number(env, args[0])).to(c10::kCPU, type).contiguous());
  });
}

/** Copies to the host that have begun, by number; never destroyed, as `slots`. */
std::map<uint32_t, dinov2::Reading>& readings = *new std::map<uint32_t, dinov2::Reading>();

/** beginReading(handle, scalarType) → number of a copy to the host that has begun, for `endReading`. */
napi_value beginReading(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments<2> args(env, info);
    const auto type = static_cast<at::ScalarType>(static_cast<int>(number(env, args[1])));
    c10::InferenceMode guard;
    static uint32_t next = 0;
    const auto id = next++;
    readings.emplace(id, dinov2::Reading(at_handle(number(env, args[0])), type));
    return js(env, static_cast<double>(id));
  });
}

/** endReading(number) → ArrayBuffer as of `toBytes`, or null where the copy has not ended; it does not wait. */
napi_value endReading(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments<1> args(env, info);
    const auto found = readings.find(static_cast<uint32_t>(number(env, args[0])));
    TORCH_CHECK(found != readings.end(), "there is no such reading");
    napi_value out;
    if (!found->second.ended()) {
      napi_get_null(env, &out);
      return out;
    }
    out = bufferOf(env, found->second.values());
    readings.erase(found);
    return out;
  });
}

napi_value release(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments<1> args(env, info);
    const double handle = number(env, args[0]);
    at_handle(handle);
    const auto id = static_cast<uint32_t>(handle);
    slots[id] = at::Tensor();
    freeSlots.push_back(id);
    liveTensors--;
    return nullptr;
  });
}

napi_value shape(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments<1> args(env, info);
    return shapeOf(env, at_handle(number(env, args[0])).sizes());
  });
}

/** type(handle) → number of the scalar type that the tensor really has (15: bfloat16). */
napi_value type(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments<1> args(env, info);
    return js(env, static_cast<double>(static_cast<int>(at_handle(number(env, args[0])).scalar_type())));
  });
}

// ------------------------------------------------------------------------------------------------------------- the
// machine

napi_value memory(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    napi_value out;
    napi_create_object(env, &out);
    DeviceMemory found;
    if (currentDevice.is_cpu()) {
      const auto figures = dinov2::memoryFigures();
      found.held = figures.held;
      found.peak = figures.peak;
      found.reserved = figures.reserved;
    } else if (auto* allocator = deviceAllocator()) {
      found = memoryOfDevice(*allocator);
      napi_set_named_property(env, out, "free", js(env, found.free));
      napi_set_named_property(env, out, "total", js(env, found.total));
    }
    napi_set_named_property(env, out, "held", js(env, found.held));
    napi_set_named_property(env, out, "peak", js(env, found.peak));
    napi_set_named_property(env, out, "reserved", js(env, found.reserved));
    napi_set_named_property(env, out, "tensors", js(env, static_cast<double>(liveTensors)));
    return out;
  });
}

napi_value resetPeak(napi_env env, napi_callback_info) {
  return guarded(env, [&]() -> napi_value {
    dinov2::resetPeak();
    if (auto* allocator = deviceAllocator()) allocator->resetPeakStats(currentDevice.has_index() ? currentDevice.index() : c10::DeviceIndex(0));
    return nullptr;
  });
}

/** setDevice('cpu' | 'cuda' | 'cuda:1' | 'mps'): where new tensors go. Throws where the device is not there. */
napi_value setDevice(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments<1> args(env, info);
    c10::Device wanted(text(env, args[0]));
    TORCH_CHECK(!wanted.is_cuda() || at::hasCUDA(), "this libtorch sees no CUDA device");
    if (!wanted.is_cpu() && !wanted.has_index()) wanted = c10::Device(wanted.type(), 0);
    c10::InferenceMode guard;
    at::zeros({1}, at::TensorOptions().device(wanted)).add_(1);
    currentDevice = wanted;
    return nullptr;
  });
}

napi_value setThreads(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments<1> args(env, info);
    at::set_num_threads(static_cast<int>(number(env, args[0])));
    return nullptr;
  });
}

/** setTf32(on): whether CUDA may round the operands of float32 products and convolutions; libtorch's own default differs. */
napi_value setTf32(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments<1> args(env, info);
    const bool on = boolean(env, args[0]);
    at::globalContext().setAllowTF32CuBLAS(on);
    at::globalContext().setAllowTF32CuDNN(on);
    return nullptr;
  });
}

napi_value seed(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments<1> args(env, info);
    at::manual_seed(static_cast<uint64_t>(number(env, args[0])));
    return nullptr;
  });
}

napi_value describeEngine(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    napi_value out;
    napi_create_object(env, &out);
    napi_set_named_property(env, out, "version", js(env, std::string(TORCH_VERSION)));
    napi_set_named_property(env, out, "threads", js(env, static_cast<double>(at::get_num_threads())));
    napi_set_named_property(env, out, "cpu", js(env, at::get_cpu_capability()));
    const double devices = at::hasCUDA() ? c10::impl::VirtualGuardImpl(c10::kCUDA).deviceCount() : 0;
    napi_set_named_property(env, out, "cudaDevices", js(env, devices));
    napi_set_named_property(env, out, "device", js(env, currentDevice.str()));
    napi_value tf32;
    napi_get_boolean(env, at::globalContext().allowTF32CuBLAS(), &tf32);
    napi_set_named_property(env, out, "tf32", tf32);
    return out;
  });
}

/** synchronize(): waits until the device has done all that was asked of it. */
napi_value synchronize(napi_env env, napi_callback_info) {
  return guarded(env, [&]() -> napi_value {
    if (!currentDevice.is_cpu()) c10::impl::VirtualGuardImpl(currentDevice.type()).synchronizeDevice(currentDevice.index());
    return nullptr;
  });
}

/** leave(status): ends the process as it is, without the destructors of libtorch and of Node, which take 0.05 s. */
napi_value leave(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments<1> args(env, info);
    std::fflush(nullptr);
    std::_Exit(static_cast<int>(number(env, args[0])));
  });
}

napi_value init(napi_env env, napi_value exports) {
  dinov2::countCpuMemory();
  const std::pair<const char*, napi_callback> functions[] = {
      {"resolve", resolve}, {"schema", schema}, {"call", call}, {"fromBytes", fromBytes}, {"fromParts", fromParts}, {"toBytes", toBytes}, {"beginReading", beginReading}, {"endReading", endReading}, {"release", release},
      {"shape", shape}, {"type", type}, {"memory", memory}, {"resetPeak", resetPeak}, {"setDevice", setDevice},
      {"setThreads", setThreads}, {"setTf32", setTf32}, {"seed", seed}, {"describe", describeEngine}, {"synchronize", synchronize},
      {"leave", leave}};
  for (const auto& [name, function] : functions) {
    napi_value value;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
    napi_set_named_property(env, exports, name, value);
  }
  return exports;
}

}  // namespace

NAPI_MODULE(dinov2, init)
