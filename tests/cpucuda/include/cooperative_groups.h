// The cooperative groups that map onto this library's barriers.
#pragma once
#include "cpucuda_device.h"

namespace cooperative_groups {

struct thread_block {
  static void sync(CPUCUDA_LINE) { __syncthreads(line); }
  static unsigned size() { return blockDim.x * blockDim.y * blockDim.z; }
  static unsigned thread_rank() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  }
};

struct grid_group {
  static void sync(CPUCUDA_LINE) { cpucuda_grid_barrier(line); }
  static unsigned long long num_blocks() { return 1ull * gridDim.x * gridDim.y * gridDim.z; }
  static unsigned long long size() { return num_blocks() * thread_block::size(); }
  static unsigned long long block_rank() {
    return blockIdx.x + 1ull * gridDim.x * (blockIdx.y + 1ull * gridDim.y * blockIdx.z);
  }
  static unsigned long long thread_rank() {
    return block_rank() * thread_block::size() + thread_block::thread_rank();
  }
};

inline grid_group this_grid() { return {}; }
inline thread_block this_thread_block() { return {}; }
template <class G> void sync(const G& g, CPUCUDA_LINE) { g.sync(line); }

}  // namespace cooperative_groups
