// Internal interface between the parts of the cpucuda library.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <memory>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

// CUDA's error codes: kNAME = number, and what the two APIs append to
// "cudaError" and "CUDA_ERROR_" to name them.
#define CPUCUDA_ERRORS(X)                                                                       \
  X(InvalidValue, 1, "InvalidValue", "INVALID_VALUE")                                           \
  X(OutOfMemory, 2, "MemoryAllocation", "OUT_OF_MEMORY")                                        \
  X(InvalidDevice, 101, "InvalidDevice", "INVALID_DEVICE")                                      \
  X(InvalidImage, 200, "InvalidKernelImage", "INVALID_IMAGE")                                   \
  X(InvalidHandle, 400, "InvalidResourceHandle", "INVALID_HANDLE")                              \
  X(NotFound, 500, "SymbolNotFound", "NOT_FOUND")                                               \
  X(IllegalAddress, 700, "IllegalAddress", "ILLEGAL_ADDRESS")                                   \
  X(OutOfResources, 701, "LaunchOutOfResources", "LAUNCH_OUT_OF_RESOURCES")                     \
  X(Assert, 710, "Assert", "ASSERT")                                                            \
  X(LaunchFailure, 719, "LaunchFailure", "LAUNCH_FAILED")                                       \
  X(CooperativeTooLarge, 720, "CooperativeLaunchTooLarge", "COOPERATIVE_LAUNCH_TOO_LARGE")      \
  X(NotSupported, 801, "NotSupported", "NOT_SUPPORTED")                                         \
  X(CaptureUnsupported, 900, "StreamCaptureUnsupported", "STREAM_CAPTURE_UNSUPPORTED")          \
  X(CaptureInvalidated, 901, "StreamCaptureInvalidated", "STREAM_CAPTURE_INVALIDATED")          \
  X(CaptureMerge, 902, "StreamCaptureMerge", "STREAM_CAPTURE_MERGE")                            \
  X(CaptureUnmatched, 903, "StreamCaptureUnmatched", "STREAM_CAPTURE_UNMATCHED")                \
  X(CaptureUnjoined, 904, "StreamCaptureUnjoined", "STREAM_CAPTURE_UNJOINED")                   \
  X(CaptureImplicit, 906, "StreamCaptureImplicit", "STREAM_CAPTURE_IMPLICIT")                   \
  X(CapturedEvent, 907, "CapturedEvent", "CAPTURED_EVENT")
#define CPUCUDA_CODE(name, number, runtime, driver) k##name = number,
enum : int { kSuccess = 0, CPUCUDA_ERRORS(CPUCUDA_CODE) };

constexpr unsigned kMaxThreadsPerBlock = 1024;
constexpr unsigned kWarp = 32;
constexpr size_t kSharedPerBlock = 48 << 10, kSharedMost = 228 << 10, kPage = 4096;
constexpr unsigned char kPoison = 0xFF;  // memory that was not written yet reads as NaN
inline bool is_poison(char c) { return static_cast<unsigned char>(c) == kPoison; }
constexpr int kMultiprocessors = 4, kThreadsPerMultiprocessor = 2048;

struct Dim3 { unsigned x, y, z; };

// A kernel, in the list that every compiled kernel module exports
// ("cpucuda_kernels", see Entry in include/cpucuda_device.h).
struct TableEntry {
  const char* expression;            // its name as written in the source
  void* address;
  void (*invoke)(void** params);
  const size_t* param_sizes;
  int param_count;
  bool by_expression;                // found by `expression`, not by its linker name
  TableEntry* next;
};

struct Module {
  void* handle = nullptr;            // dlopen's
  char* shared_begin = nullptr;      // the static __shared__ data
  size_t shared_size = 0;
  ~Module();
};
struct Kernel {
  std::string name;                  // by which cuModuleGetFunction finds it
  const TableEntry* entry;
  std::shared_ptr<Module> module;
  int dynamic_limit;                 // of shared memory
};

// ---- engine.cpp: runs a grid of device threads on the calling thread ---------
struct Launch {
  const Kernel* kernel;
  Dim3 grid, block;
  size_t dynamic_shared;
  bool cooperative;
};
int run_launch(const Launch&, void** params);  // returns a CUDA error code

// ---- runtime.cpp ---------------------------------------------------------------
// What cpucuda.counters() reports, in the order of kCounterNames.
enum Counter {
  kLaunches, kGraphLaunches, kSynchronizations, kEventWaits, kBlockingCopies, kHostToDevice,
  kDeviceToHost, kMallocs, kBlasCalls, kCounterCount
};
void count(Counter);
void count_launch(const Kernel&);

// Every operation on the device goes through submit(): it runs at once, or is
// recorded if the stream is being captured into a graph.
int submit(void* stream, std::function<int()> operation);
std::recursive_mutex& device_lock();
using Lock = std::lock_guard<std::recursive_mutex>;
// Prints that `function` is missing and remembers its name for
// cudaGetErrorString. Returns cudaErrorNotSupported.
API int cpucuda_missing(const char* function);
API int cudaStreamIsCapturing(void* stream, int* out);

int compute_capability();
size_t shared_optin();               // largest shared memory of a block, if asked for
// Where an address is, seen from the nearest allocation: "" or ", 4 bytes past the end of ...".
std::string locate(const char* address);
// An allocation before or behind which something was written, in words; "" if there is none.
std::string damaged_allocation();

// ---- nvrtc.cpp: what a compiled "cubin" looks like ------------------------------
// magic, 8-byte length, then an ELF shared object of that length.
constexpr char kImageMagic[8] = {'/', '/', 'C', 'P', 'U', 'C', 'U', '\n'};
