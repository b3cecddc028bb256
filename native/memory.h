/** Counts and reuses the host memory of tensors; see memory.cc. */
#pragma once
#include <cstddef>

namespace dinov2 {

struct MemoryFigures {
  double held;      // bytes of living tensors
  double peak;      // the most that were alive at once since the start or the last reset
  double reserved;  // held, and what is kept for reuse
};

/** Puts the counting allocator in place of libtorch's own. Called once, before any tensor exists. */
void countCpuMemory();
MemoryFigures memoryFigures();
void resetPeak();

}  // namespace dinov2
