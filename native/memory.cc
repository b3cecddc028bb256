/**
 * Host memory of tensors: counted exactly, and kept for reuse.
 *
 * A training step asks for the same sizes again and again. The C library returns large blocks to the kernel at once,
 * so each step would fault in every page anew, which was measured to cost a fifth of a training step. Here freed
 * blocks of 64 KiB and more wait in a list by size class (eight classes an octave, so at most an eighth is wasted) and
 * are handed out again; what is in use and what waits together never exceed the most that was ever in use at once, so
 * that keeping blocks never raises the peak of the process. Small blocks go straight to the C library, which is quick
 * with them.
 */
#include "memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

namespace dinov2 {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kCached = size_t(64) << 10;    // from here on blocks are kept
constexpr size_t kMapped = size_t(1) << 20;     // from here on blocks are mapped one by one
constexpr size_t kHugePage = size_t(2) << 20;   // from here on huge pages are asked for

/**
 * Stands before the data of each block. libtorch wants the data pointer itself as the context, so sizes travel here.
 */
struct alignas(kAlignment) Block {
  size_t bytes;  // what was taken from the system, this header included
  size_t asked;  // what the tensor wanted
};

// Never destroyed: tensors may be let go while the process ends.
std::mutex& lock = *new std::mutex();
std::map<size_t, std::vector<void*>>& waiting = *new std::map<size_t, std::vector<void*>>();  // by bytes taken
size_t held = 0, peak = 0;                    // as tensors asked
size_t taken = 0, highest = 0, cached = 0;    // blocks from 64 KiB on: in use, the most of that, waiting

size_t sizeClass(size_t bytes) {
  size_t octave = kCached;
  while (octave * 2 <= bytes) octave *= 2;
  const size_t step = octave / 8;
  return (bytes + step - 1) / step * step;
}

/**
 * Large blocks are mapped one by one: the C library would take them from its heaps once some have been freed, and a
 * heap gives nothing back while a small block lies above. A step's peak was measured to cost half as much again that
 * way.
 */
void* fromSystem(size_t bytes) {
  void* data = nullptr;
  if (bytes < kMapped) return posix_memalign(&data, kAlignment, bytes) == 0 ? data : nullptr;
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;  // a huge page begins at a multiple of its size
  data = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  if (slack == 0) return data;
  char* const from = static_cast<char*>(data);
  char* const at = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(from) + slack - 1) / slack * slack);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), end = (bytes + page - 1) / page * page;
  if (at > from) munmap(from, static_cast<size_t>(at - from));
  if (from + bytes + slack > at + end) munmap(at + end, static_cast<size_t>(from + bytes + slack - at) - end);
  madvise(at, bytes, MADV_HUGEPAGE);
  return at;
}

void toSystem(void* data, size_t bytes) {
  if (bytes < kMapped) {
    free(data);
    return;
  }
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  munmap(data, (bytes + page - 1) / page * page);
}

/** Lets go of waiting blocks, the largest first, until at most `most` bytes wait. */
void trim(size_t most) {
  while (cached > most && !waiting.empty()) {
    auto last = std::prev(waiting.end());
    toSystem(last->second.back(), last->first);
    cached -= last->first;
    last->second.pop_back();
    if (last->second.empty()) waiting.erase(last);
  }
}

void giveBack(void* data) {
  if (!data) return;
  Block* block = static_cast<Block*>(data) - 1;
  std::lock_guard<std::mutex> guard(lock);
  held -= block->asked;
  if (block->bytes >= kCached) {
    waiting[block->bytes].push_back(block);
    cached += block->bytes;
    taken -= block->bytes;
  } else {
    free(block);
  }
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t asked) override {
    if (asked == 0) return {nullptr, nullptr, &giveBack, c10::Device(c10::kCPU)};
    const size_t whole = asked + sizeof(Block);
    const bool keeps = whole >= kCached;
    size_t bytes = keeps ? sizeClass(whole) : whole;
    void* data = nullptr;
    {
      std::lock_guard<std::mutex> guard(lock);
      if (keeps) {
        const auto found = waiting.lower_bound(bytes);
        if (found != waiting.end() && found->first <= bytes + bytes / 8) {
          bytes = found->first;
          data = found->second.back();
          found->second.pop_back();
          if (found->second.empty()) waiting.erase(found);
          cached -= bytes;
        } else {
          const size_t room = highest > taken + bytes ? highest - taken - bytes : 0;
          if (cached > room) trim(room);
        }
      }
      if (!data) data = fromSystem(bytes);
      if (!data) {
        trim(0);
        data = fromSystem(bytes);
      }
      TORCH_CHECK_WITH(OutOfMemoryError, data, "not enough memory: ", asked, " bytes were asked for while ", held, " were held");
      held += asked;
      peak = std::max(peak, held);
      if (keeps) {
        taken += bytes;
        highest = std::max(highest, taken);
      }
    }
    *static_cast<Block*>(data) = {bytes, asked};
    void* content = static_cast<Block*>(data) + 1;
    return {content, content, &giveBack, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &giveBack; }
  void copy_data(void* target, const void* source, std::size_t count) const override { default_copy_data(target, source, count); }
};

}  // namespace

void countCpuMemory() {
  static auto* allocator = new CountingAllocator();
  c10::SetCPUAllocator(allocator, /*priority=*/100);
}

MemoryFigures memoryFigures() {
  std::lock_guard<std::mutex> guard(lock);
  return {double(held), double(peak), double(held + cached)};
}

void resetPeak() {
  std::lock_guard<std::mutex> guard(lock);
  peak = held;
}

}  // namespace dinov2
