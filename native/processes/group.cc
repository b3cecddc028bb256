/**
 * The group of processes of one training run, on c10d of libtorch: Gloo between processors, NCCL between NVIDIA GPUs.
 *
 * There is one group at a time. Its collectives are operators `dinov2_processes::…`, which the other addon calls by name as it calls any
 * operator of libtorch, so that no tensor has to pass from one addon to the other. What may wait for long (joining, the exchange of
 * a few bytes before each step) runs on a thread of its own and resolves a promise. A thread counts up a number in the store twice a second:
 * that number separates processes that no longer run from slow ones.
 *
 * Nothing here is destroyed at the end: a thread may still wait for a process that is gone, and `leave` ends the process without them.
 */
#define NAPI_VERSION 8
#include <node_api.h>

#define USE_C10D_GLOO
#ifdef DINOV2_NCCL
#define USE_C10D_NCCL
#endif
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef DINOV2_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#include <torch/library.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

using std::chrono::milliseconds;
using Bytes = std::vector<uint8_t>;
/** Of waiting for other processes, where whoever awaits it looks after them by their counters. */
constexpr milliseconds kLong = std::chrono::hours(24 * 365);

/** What a process asks for when it joins. */
struct Wish {
  std::string host, prefix, device;
  int port = 0, rank = 0, size = 1;
  bool isServer = false;
  milliseconds timeout{60000};
};

/** A collective under way, with its tensors, which must outlive it. */
struct Begun {
  c10::intrusive_ptr<c10d::Work> work;
  at::Tensor from, out;
};

struct Group {
  Wish wish;
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> cpu;
  /** The backend of tensors: that of the CPU, or NCCL. */
  c10::intrusive_ptr<c10d::Backend> tensors;
  std::atomic<bool> open{true};
  /** Counted up by the thread of JavaScript while it is free. */
  std::atomic<int64_t> ticks{0};
  /** Why the run failed, as soon as a process has said so: it outlives the store. */
  std::string failure;
  std::mutex guard;
  std::map<int64_t, Begun> begun;
  int64_t numbers = 0;
};
Group* group = nullptr;

Group& joined() {
  TORCH_CHECK(group && group->open, "the process group is not open");
  return *group;
}

Bytes bytesOf(const std::string& text) { return Bytes(text.begin(), text.end()); }

// ---------------------------------------------------------------------------------------------------------------
// collectives

void finish(const c10::intrusive_ptr<c10d::Work>& work) { work->wait(); }

void allReduce(at::Tensor x, bool largest) {
  std::vector<at::Tensor> list{x};
  c10d::AllreduceOptions options;
  if (largest) options.reduceOp = c10d::ReduceOp::MAX;
  finish(joined().tensors->allreduce(list, options));
}

void broadcast(at::Tensor x, int64_t root) {
  std::vector<at::Tensor> list{x};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  finish(joined().tensors->broadcast(list, options));
}

/** x of each process, one behind the other along the first axis. */
at::Tensor allGather(const at::Tensor& x) {
  auto& g = joined();
  auto sizes = x.sizes().vec();
  sizes[0] *= g.wish.size;
  auto from = x.contiguous(), out = at::empty(sizes, x.options());
  finish(g.tensors->_allgather_base(out, from));
  return out;
}

/** Keeps a collective that has begun; → the number by which `wait` knows it. */
int64_t keepBegun(c10::intrusive_ptr<c10d::Work> work, at::Tensor from, at::Tensor out) {
  auto& g = joined();
  const int64_t number = ++g.numbers;
  g.begun[number] = {std::move(work), std::move(from), std::move(out)};
  return number;
}

/** As `all_gather`, begun: the result may be read when `wait` has returned for the number beside it. */
std::tuple<at::Tensor, int64_t> beginAllGather(const at::Tensor& x) {
  auto& g = joined();
  auto sizes = x.sizes().vec();
  sizes[0] *= g.wish.size;
  auto from = x.contiguous(), out = at::empty(sizes, x.options());
  auto work = g.tensors->_allgather_base(out, from);
  return {out, keepBegun(work, from, out)};
}

/**
 * Begins to send row r of x [n, …] to process r; the result [n, …] is what all have sent to this one, in order of their ranks. The sum of
 * its rows is a reduce-scatter whose order of additions is the same on every device, and which may be taken in a wider type than that of
 * the wire.
 */
std::tuple<at::Tensor, int64_t> beginAllToAll(const at::Tensor& x) {
  auto& g = joined();
  TORCH_CHECK(x.size(0) == g.wish.size, "expected a row for each process");
  auto from = x.contiguous(), out = at::empty_like(from);
  std::vector<int64_t> equal;
  auto work = g.tensors->alltoall_base(out, from, equal, equal);
  return {out, keepBegun(work, from, out)};
}

/** Whole numbers of the host, of each process its own; all of them, one process behind the other. */
std::vector<int64_t> gatherNumbers(c10::IntArrayRef own) {
  auto& g = joined();
  auto from = at::tensor(own, at::kLong), out = at::empty({g.wish.size * from.numel()}, at::kLong);
  finish(g.cpu->_allgather_base(out, from));
  return std::vector<int64_t>(out.data_ptr<int64_t>(), out.data_ptr<int64_t>() + out.numel());
}

/** 0 stands for a collective that was done when it began, as on a device that computes nothing beside it. */
void waitFor(int64_t number) {
  if (number == 0) return;
  auto& g = joined();
  auto found = g.begun.find(number);
  TORCH_CHECK(found != g.begun.end(), "no collective of number ", number, " is under way");
  const auto begun = found->second;
  g.begun.erase(found);
  finish(begun.work);
}

TORCH_LIBRARY(dinov2_processes, library) {
  library.def("all_reduce(Tensor(a!) x, bool largest) -> ()", allReduce);
  library.def("broadcast(Tensor(a!) x, int root) -> ()", broadcast);
  library.def("all_gather(Tensor x) -> Tensor", allGather);
  library.def("begin_all_gather(Tensor x) -> (Tensor, int)", beginAllGather);
  library.def("begin_all_to_all(Tensor x) -> (Tensor, int)", beginAllToAll);
  library.def("gather_numbers(int[] own) -> int[]", gatherNumbers);
  library.def("wait(int number) -> ()", waitFor);
}

// ---------------------------------------------------------------------------------------------------------------
// joining

c10::intrusive_ptr<c10d::Store> connect(const Wish& wish, bool isServer) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(wish.port);
  options.isServer = isServer;
  options.numWorkers = wish.size;
  options.waitWorkers = false;
  options.timeout = wish.timeout;
  return c10::make_intrusive<c10d::PrefixStore>(wish.prefix, c10::make_intrusive<c10d::TCPStore>(wish.host, options));
}

std::string aliveKey(int rank) { return "alive/" + std::to_string(rank); }
std::string ticksKey(int rank) { return "ticks/" + std::to_string(rank); }

/** Connects to the store, and begins to count there. */
void meet(Group& g) {
  g.store = connect(g.wish, g.wish.isServer);
  auto own = connect(g.wish, false);  // a store serves one caller at a time
  std::thread([&g, own] {
    try {
      for (int64_t seen = 0; g.open;) {
        own->add(aliveKey(g.wish.rank), 1);
        const int64_t now = g.ticks;
        if (now > seen) own->add(ticksKey(g.wish.rank), now - seen);
        seen = now;
        if (own->check({"failure"})) {
          const auto why = own->get("failure");
          std::lock_guard<std::mutex> lock(g.guard);
          g.failure.assign(why.begin(), why.end());
        }
        std::this_thread::sleep_for(milliseconds(500));
      }
    } catch (const std::exception&) {
      // The store is gone, and so is the process that kept it.
    }
  }).detach();
}

/** Makes the connections between all processes. */
void joinGroup(Group& g) {
  const auto& wish = g.wish;
  auto options = c10d::ProcessGroupGloo::Options::create();
  options->timeout = wish.timeout;
  const char* interface = getenv("GLOO_SOCKET_IFNAME");
  options->devices.push_back(interface && *interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface, false)
                                                     : c10d::ProcessGroupGloo::createDefaultDevice(false));
  // While processes are awaited, a store answers nobody else: this one is of the connections alone.
  const auto store = connect(wish, false);
  g.cpu = c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>("gloo", store), wish.rank, wish.size, options);
  g.tensors = g.cpu;
  if (wish.device.rfind("cuda", 0) != 0) return;
#ifdef DINOV2_NCCL
  auto nccl = c10d::ProcessGroupNCCL::Options::create();
  nccl->timeout = wish.timeout;
  g.tensors = c10::make_intrusive<c10d::ProcessGroupNCCL>(c10::make_intrusive<c10d::PrefixStore>("nccl", store), wish.rank, wish.size, nccl);
#else
  TORCH_CHECK(false, "this addon was compiled without NCCL");
#endif
}

// ---------------------------------------------------------------------------------------------------------------
// JavaScript

void raise(napi_env env, const std::exception& error) {
  const auto* own = dynamic_cast<const c10::Error*>(&error);
  const std::string all = own ? own->what_without_backtrace() : error.what();
  napi_throw_error(env, "PROCESSES", all.substr(0, all.find("\nException raised from")).c_str());
}

template <typename F>
napi_value guarded(napi_env env, F&& body) {
  try {
    return body();
  } catch (const std::exception& error) {
    raise(env, error);
  }
  return nullptr;
}

std::string text(napi_env env, napi_value value) {
  size_t length = 0;
  TORCH_CHECK(napi_get_value_string_utf8(env, value, nullptr, 0, &length) == napi_ok, "expected a string");
  std::string out(length, '\0');
  napi_get_value_string_utf8(env, value, out.data(), length + 1, &length);
  return out;
}

double number(napi_env env, napi_value value) {
  double out = 0;
  TORCH_CHECK(napi_get_value_double(env, value, &out) == napi_ok, "expected a number");
  return out;
}

std::vector<napi_value> list(napi_env env, napi_value value) {
  uint32_t length = 0;
  TORCH_CHECK(napi_get_array_length(env, value, &length) == napi_ok, "expected an array");
  std::vector<napi_value> out(length);
  for (uint32_t i = 0; i < length; i++) TORCH_CHECK(napi_get_element(env, value, i, &out[i]) == napi_ok, "unreadable element");
  return out;
}

napi_value js(napi_env env, const std::string& value) {
  napi_value out;
  napi_create_string_utf8(env, value.data(), value.size(), &out);
  return out;
}

napi_value js(napi_env env, double value) {
  napi_value out;
  napi_create_double(env, value, &out);
  return out;
}

/** Work on a thread of its own, whose text or failure settles a promise. */
struct Task {
  std::function<std::string()> work;
  std::string result, failure;
  napi_deferred deferred;
  napi_threadsafe_function done;
};

void settle(napi_env env, napi_value, void*, void* data) {
  auto* task = static_cast<Task*>(data);
  if (env) {
    if (task->failure.empty()) {
      napi_resolve_deferred(env, task->deferred, js(env, task->result));
    } else {
      napi_value error;
      napi_create_error(env, js(env, std::string("PROCESSES")), js(env, task->failure), &error);
      napi_reject_deferred(env, task->deferred, error);
    }
  }
  napi_release_threadsafe_function(task->done, napi_tsfn_release);
  delete task;
}

napi_value promise(napi_env env, std::function<std::string()> work) {
  auto* task = new Task{std::move(work), "", "", nullptr, nullptr};
  napi_value out;
  napi_create_promise(env, &task->deferred, &out);
  napi_create_threadsafe_function(env, nullptr, nullptr, js(env, std::string("processes")), 0, 1, nullptr, nullptr, nullptr, settle, &task->done);
  std::thread([task] {
    try {
      c10::InferenceMode guard;
      task->result = task->work();
    } catch (const c10::Error& error) {
      task->failure = error.what_without_backtrace();
    } catch (const std::exception& error) {
      task->failure = error.what();
    }
    if (!task->failure.empty()) task->failure = task->failure.substr(0, task->failure.find("\nException raised from"));
    napi_call_threadsafe_function(task->done, task, napi_tsfn_blocking);
  }).detach();
  return out;
}

struct Arguments {
  size_t count = 8;
  napi_value values[8];
  Arguments(napi_env env, napi_callback_info info) { napi_get_cb_info(env, info, &count, values, nullptr, nullptr); }
  napi_value operator[](size_t i) const { return values[i]; }
};

/** meet(host, port, prefix, rank, size, isServer, timeoutMs): connects to the store. Resolves when it is reached. */
napi_value meetStore(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments args(env, info);
    TORCH_CHECK(!group || !group->open, "this process has met the others already");
    bool isServer = false;
    napi_get_value_bool(env, args[5], &isServer);
    group = new Group();
    group->wish = {text(env, args[0]), text(env, args[2]), "cpu", static_cast<int>(number(env, args[1])), static_cast<int>(number(env, args[3])),
                   static_cast<int>(number(env, args[4])), isServer, milliseconds(static_cast<int64_t>(number(env, args[6])))};
    return promise(env, [] {
      try {
        meet(*group);
      } catch (...) {
        group->open = false;
        throw;
      }
      return std::string();
    });
  });
}

/** join(device): makes the connections, for tensors on that device. Resolves when all processes have. */
napi_value join(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments args(env, info);
    group->wish.device = text(env, args[0]);
    return promise(env, [] {
      joinGroup(*group);
      return std::string();
    });
  });
}

/** Values that are JSON, as a JSON array. */
std::string jsonArray(const std::vector<std::string>& values) {
  std::string out = "[";
  for (const auto& value : values) out += (out.size() > 1 ? "," : "") + value;
  return out + "]";
}

/** await(keys): what stands under these keys, one behind the other as a JSON array. Resolves when all are there. */
napi_value awaitKeys(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments args(env, info);
    std::vector<std::string> keys;
    for (const auto key : list(env, args[0])) keys.push_back(text(env, key));
    return promise(env, [keys] {
      const auto store = connect(group->wish, false);  // while keys are awaited, a store answers nobody else
      store->setTimeout(kLong);
      std::vector<std::string> found;
      for (const auto& value : store->multiGet(keys)) found.emplace_back(value.begin(), value.end());
      return jsonArray(found);
    });
  });
}

/** exchange(text, room): the texts of all processes, each of `room` bytes at most, one behind the other as a JSON array. */
napi_value exchange(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments args(env, info);
    const auto own = text(env, args[0]);
    const auto room = static_cast<int64_t>(number(env, args[1]));
    TORCH_CHECK(static_cast<int64_t>(own.size()) <= room, "a message of ", own.size(), " bytes is too long");
    return promise(env, [own, room] {
      auto& g = joined();
      auto from = at::zeros({room}, at::kByte), all = at::empty({room * g.wish.size}, at::kByte);
      std::memcpy(from.data_ptr(), own.data(), own.size());
      c10d::AllgatherOptions options;
      options.timeout = kLong;
      finish(g.cpu->_allgather_base(all, from, options));
      std::vector<std::string> texts;
      for (int i = 0; i < g.wish.size; i++) {
        const char* at = static_cast<const char*>(all.data_ptr()) + i * room;
        texts.emplace_back(at, strnlen(at, room));
      }
      return jsonArray(texts);
    });
  });
}

/** put(key, value): writes to the store, for all to read. */
napi_value put(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments args(env, info);
    group->store->set(text(env, args[0]), bytesOf(text(env, args[1])));
    return nullptr;
  });
}

/** putFirst(key, value) → what stands there: the value of whoever came first. */
napi_value putFirst(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments args(env, info);
    const auto found = group->store->compareSet(text(env, args[0]), Bytes(), bytesOf(text(env, args[1])));
    return js(env, std::string(found.begin(), found.end()));
  });
}

/** read(key) → what stands in the store, or null; never waits. */
napi_value read(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments args(env, info);
    const auto key = text(env, args[0]);
    if (!group->store->check({key})) {
      napi_value none;
      napi_get_null(env, &none);
      return none;
    }
    const auto found = group->store->get(key);
    return js(env, std::string(found.begin(), found.end()));
  });
}

/** failure() → what a process said of why it failed, or null. */
napi_value failure(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    std::lock_guard<std::mutex> lock(group->guard);
    if (!group->failure.empty()) return js(env, group->failure);
    napi_value none;
    napi_get_null(env, &none);
    return none;
  });
}

/** tick(): the thread of JavaScript is free. */
napi_value tick(napi_env env, napi_callback_info) {
  if (group) group->ticks++;
  return nullptr;
}

/** Counters in the store; 0 where a process has not come. */
std::vector<int64_t> counters(c10d::Store& store, const std::vector<std::string>& keys) {
  if (!store.check(keys))
    for (const auto& key : keys) store.add(key, 0);
  std::vector<int64_t> out;
  for (const auto& value : store.multiGet(keys)) out.push_back(std::stoll(std::string(value.begin(), value.end())));
  return out;
}

/** beats(ranks) → {alive, ticks}: the counters of these processes; 0 where one has not come. */
napi_value beats(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    Arguments args(env, info);
    const auto ranks = list(env, args[0]);
    const auto count = static_cast<uint32_t>(ranks.size());
    std::vector<std::string> keys;
    for (auto key : {aliveKey, ticksKey})
      for (const auto rank : ranks) keys.push_back(key(static_cast<int>(number(env, rank))));
    const auto found = counters(*group->store, keys);
    napi_value lists[2], out;
    napi_create_object(env, &out);
    for (uint32_t kind = 0; kind < 2; kind++) {
      napi_create_array_with_length(env, count, &lists[kind]);
      for (uint32_t i = 0; i < count; i++) napi_set_element(env, lists[kind], i, js(env, static_cast<double>(found[kind * count + i])));
      napi_set_named_property(env, out, kind == 0 ? "alive" : "ticks", lists[kind]);
    }
    return out;
  });
}

/** close(): no collective may be called afterwards. */
napi_value closeGroup(napi_env env, napi_callback_info) {
  return guarded(env, [&]() -> napi_value {
    if (group) group->open = false;
    return nullptr;
  });
}

/** leave(status): ends the process at once, without waiting for threads that wait for processes that are gone. */
napi_value leave(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    Arguments args(env, info);
    _exit(static_cast<int>(number(env, args[0])));
  });
}

napi_value init(napi_env env, napi_value exports) {
  // What fails is told in a sentence by whoever called; c10d would print a trace of its own before it.
  if (!getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_FATAL;
  const std::pair<const char*, napi_callback> functions[] = {{"meet", meetStore}, {"join", join},   {"await", awaitKeys}, {"exchange", exchange}, {"put", put},    {"putFirst", putFirst},
                                                             {"read", read},      {"failure", failure}, {"tick", tick}, {"beats", beats}, {"close", closeGroup},  {"leave", leave}};
  for (const auto& [name, function] : functions) {
    napi_value value;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
    napi_set_named_property(env, exports, name, value);
  }
  return exports;
}

}  // namespace

NAPI_MODULE(dinov2_processes, init)
