// The part of the CUDA runtime API that CuPy calls, for one device whose memory
// is host memory and whose streams do each operation at once.
#include "cpucuda.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>

std::recursive_mutex& device_lock() {
  static auto* lock = new std::recursive_mutex;  // never destroyed: threads may outlive main
  return *lock;
}

// ---- counters ----------------------------------------------------------------
namespace {
const char* const kCounterNames[kCounterCount] = {
    "launches", "graph_launches", "synchronizations", "event_waits", "blocking_copies",
    "host_to_device", "device_to_host", "mallocs", "blas_calls"};
uint64_t counters[kCounterCount];
std::map<std::string, uint64_t> launches_by_name;
}  // namespace

void count(Counter counter) {
  Lock lock(device_lock());
  counters[counter]++;
}
void count_launch(const Kernel& kernel) {
  Lock lock(device_lock());
  counters[kLaunches]++;
  launches_by_name[kernel.entry->expression]++;
}
// JSON, valid until the calling thread asks again.
API const char* cpucuda_counters() {
  Lock lock(device_lock());
  static thread_local std::string text;
  text = "{";
  for (int i = 0; i < kCounterCount; i++)
    text += '"' + std::string(kCounterNames[i]) + "\": " + std::to_string(counters[i]) + ", ";
  text += "\"launches_by_name\": {";
  const char* separator = "\"";
  for (auto& [name, n] : launches_by_name) {
    text += separator + name + "\": " + std::to_string(n);
    separator = ", \"";
  }
  return (text += "}}").c_str();
}
API void cpucuda_reset_counters() {
  Lock lock(device_lock());
  memset(counters, 0, sizeof counters);
  launches_by_name.clear();
}

// ---- errors --------------------------------------------------------------------
namespace {
struct ErrorName { int code; const char *runtime, *driver; };
#define CPUCUDA_ROW(name, number, runtime, driver) {number, "cudaError" runtime, "CUDA_ERROR_" driver},
const ErrorName kErrors[] = {{kSuccess, "cudaSuccess", "CUDA_SUCCESS"}, CPUCUDA_ERRORS(CPUCUDA_ROW)};
thread_local std::string missing_text;  // names the last missing function

ErrorName find_error(int code) {
  for (auto& e : kErrors) if (e.code == code) return e;
  return {code, "cudaErrorUnknown", "CUDA_ERROR_UNKNOWN"};
}
}  // namespace

API int cpucuda_missing(const char* function) {
  missing_text = std::string(function) + " is not implemented by cpucuda";
  fprintf(stderr, "cpucuda: %s\n", missing_text.c_str());
  return kNotSupported;
}
API const char* cudaGetErrorName(int code) { return find_error(code).runtime; }
API const char* cudaGetErrorString(int code) {
  return code == kNotSupported ? missing_text.c_str() : "an error of the device that cpucuda emulates";
}
API int cudaGetLastError() { return kSuccess; }
API int cudaPeekAtLastError() { return kSuccess; }
API int cuGetErrorName(int code, const char** s) { *s = find_error(code).driver; return kSuccess; }
API int cuGetErrorString(int code, const char** s) { *s = cudaGetErrorString(code); return kSuccess; }

// ---- the device ------------------------------------------------------------------
namespace {
size_t env_number(const char* name, size_t otherwise) {
  const char* s = getenv(name);
  return s && *s ? strtoull(s, nullptr, 10) : otherwise;
}
size_t total_memory() { return env_number("CPUCUDA_MEMORY_MB", 4096) << 20; }
}  // namespace

int compute_capability() { return int(env_number("CPUCUDA_COMPUTE_CAPABILITY", 80)); }
size_t shared_optin() {              // CUDA Programming Guide, technical specifications
  int c = compute_capability();
  return size_t(c == 75 ? 64 : c == 80 ? 163 : c == 90 || c == 100 ? 227 : 99) << 10;
}

API int cudaGetDeviceCount(int* n) { *n = 1; return kSuccess; }
API int cudaGetDevice(int* d) { *d = 0; return kSuccess; }
API int cudaSetDevice(int d) { return d == 0 ? kSuccess : kInvalidDevice; }
API int cudaDriverGetVersion(int* v) { *v = 13000; return kSuccess; }
API int cudaRuntimeGetVersion(int* v) { *v = 13000; return kSuccess; }
API int cudaDeviceGetAttribute(int* v, int attribute, int device) {
  if (device != 0) return kInvalidDevice;
  const std::map<int, int> values = {  // numbered by enum cudaDeviceAttr
      {1, kMaxThreadsPerBlock}, {2, 1024}, {3, 1024}, {4, 64}, {5, 0x7fffffff}, {6, 65535},
      {7, 65535}, {8, kSharedPerBlock}, {9, 65536}, {10, kWarp}, {11, 0x7fffffff}, {12, 65536},
      {13, 1000000}, {14, 512}, {15, 1}, {16, kMultiprocessors}, {19, 1}, {31, 1}, {36, 1000000},
      {37, 64}, {38, 1 << 20}, {39, kThreadsPerMultiprocessor}, {40, 1}, {41, 1},
      {75, compute_capability() / 10}, {76, compute_capability() % 10}, {78, 1}, {81, 164 << 10}, {82, 65536},
      {87, 2}, {95, 1}, {97, int(shared_optin())}, {106, 32}, {111, 1024}, {115, 1}};
  auto i = values.find(attribute);
  *v = i == values.end() ? 0 : i->second;
  return kSuccess;
}
API int cudaGetDeviceProperties(void* out, int device) {
  if (device != 0) return kInvalidDevice;
  // Fields of CUDA 13's cudaDeviceProp by their offsets; the others are 0.
  memset(out, 0, 792);
  auto put = [out](size_t offset, auto value) { memcpy(static_cast<char*>(out) + offset, &value, sizeof value); };
  strcpy(static_cast<char*>(out), "cpucuda (CUDA device emulated on the CPU)");
  put(288, total_memory());
  put(296, kSharedPerBlock);
  put(308, kWarp);
  put(320, kMaxThreadsPerBlock);
  put(360, compute_capability() / 10);
  put(364, compute_capability() % 10);
  put(384, kMultiprocessors);
  put(672, shared_optin());
  return kSuccess;
}

// ---- streams, events and capture ---------------------------------------------------
namespace {
using Operation = std::function<int()>;
struct Stream;
struct Graph {
  std::vector<Operation> nodes;
  Stream* origin = nullptr;
  bool invalid = false;
};
using GraphHandle = std::shared_ptr<Graph>;
struct Stream {
  unsigned flags = 0;
  int priority = 0;
  GraphHandle capture;
  bool joined = true;                // its captured work has been waited for
};
struct Event {
  unsigned flags = 0;
  std::chrono::steady_clock::time_point time{};
  bool recorded = false;
  GraphHandle capture;
  Stream* stream = nullptr;
};

std::set<void*> streams;             // those that are alive
constexpr unsigned kNonBlocking = 1, kDisableTiming = 2;

// The stream of a handle, under the lock: null (and code 0) for the default stream.
struct Locked {
  Lock lock{device_lock()};
  int code = kSuccess;
  Stream* stream = nullptr;
  explicit Locked(void* handle) {
    if (reinterpret_cast<uintptr_t>(handle) > 2) {  // not null, legacy, per-thread
      stream = streams.count(handle) ? static_cast<Stream*>(handle) : nullptr;
      code = stream ? kSuccess : kInvalidHandle;
      return;
    }
    for (void* p : streams) {        // it would wait for blocking streams
      auto* s = static_cast<Stream*>(p);
      if (s->capture && !(s->flags & kNonBlocking)) code = kCaptureImplicit;
    }
  }
};

// Waiting for a stream, or asking whether it is done, breaks its capture.
int synchronize(void* handle) {
  Locked at(handle);
  if (!at.stream || !at.stream->capture) return at.code;
  at.stream->capture->invalid = true;
  return kCaptureUnsupported;
}
}  // namespace

int submit(void* handle, Operation operation) {
  {
    Locked at(handle);
    if (at.code) return at.code;
    if (at.stream && at.stream->capture) {
      if (at.stream->capture->invalid) return kCaptureInvalidated;
      at.stream->capture->nodes.push_back(std::move(operation));
      at.stream->joined = false;
      return kSuccess;
    }
  }
  // Not under the lock: a host function that waits for Python's lock, held by
  // a thread that waits for ours, would never return.
  return operation();
}

API int cudaStreamCreateWithPriority(void** out, unsigned flags, int) {
  Lock lock(device_lock());
  auto* s = new Stream;
  s->flags = flags;
  streams.insert(*out = s);
  return kSuccess;
}
API int cudaStreamDestroy(void* s) {
  Lock lock(device_lock());
  if (!streams.erase(s)) return kInvalidHandle;
  delete static_cast<Stream*>(s);
  return kSuccess;
}
API int cudaStreamSynchronize(void* s) { count(kSynchronizations); return synchronize(s); }
API int cudaStreamQuery(void* s) { return synchronize(s); }
API int cudaDeviceSynchronize() {
  Lock lock(device_lock());
  count(kSynchronizations);
  for (void* p : streams)
    if (int code = synchronize(p)) return code;
  return kSuccess;
}
API int cudaLaunchHostFunc(void* s, void (*f)(void*), void* data) {
  return submit(s, [=] { f(data); return kSuccess; });
}
API int cudaStreamWaitEvent(void* handle, Event* e, unsigned) {
  Locked at(handle);
  Stream* s = at.stream;
  if (!s || !e->capture || !e->capture->origin) return at.code;
  if (s->capture && s->capture != e->capture) return kCaptureMerge;
  if (!s->capture) { s->capture = e->capture; s->joined = false; }  // forked off
  else if (e->stream && streams.count(e->stream)) e->stream->joined = true;
  return kSuccess;
}

API int cudaEventCreateWithFlags(Event** out, unsigned flags) {
  *out = new Event;
  (*out)->flags = flags;
  return kSuccess;
}
API int cudaEventDestroy(Event* e) { delete e; return kSuccess; }
API int cudaEventRecord(Event* e, void* handle) {
  Locked at(handle);
  if (at.code) return at.code;
  e->capture = at.stream ? at.stream->capture : nullptr;
  e->stream = at.stream;
  if (e->capture) return kSuccess;
  e->recorded = true;
  e->time = std::chrono::steady_clock::now();
  return kSuccess;
}
API int cudaEventQuery(Event* e) {
  Lock lock(device_lock());
  return e->capture ? kCapturedEvent : kSuccess;
}
API int cudaEventSynchronize(Event* e) { count(kEventWaits); return cudaEventQuery(e); }
API int cudaEventElapsedTime(float* ms, Event* a, Event* b) {
  Lock lock(device_lock());
  bool timed = !((a->flags | b->flags) & kDisableTiming);
  if (a->capture || b->capture || !a->recorded || !b->recorded || !timed) return kInvalidHandle;
  *ms = std::chrono::duration<float, std::milli>(b->time - a->time).count();
  return kSuccess;
}

API int cudaStreamBeginCapture(void* handle, int) {
  Locked at(handle);
  Stream* s = at.stream;
  if (!s) return at.code ? at.code : kCaptureUnsupported;
  if (s->capture) return kInvalidValue;
  s->capture = std::make_shared<Graph>();
  s->capture->origin = s;
  return kSuccess;
}
API int cudaStreamIsCapturing(void* handle, int* status) {
  Locked at(handle);
  *status = !at.stream || !at.stream->capture ? 0 : at.stream->capture->invalid ? 2 : 1;
  return at.code;
}
API int cudaStreamEndCapture(void* handle, GraphHandle** out) {
  Locked at(handle);
  Stream* s = at.stream;
  *out = nullptr;
  if (!s || !s->capture) return at.code ? at.code : kInvalidValue;
  auto graph = s->capture;
  if (graph->origin != s) { graph->invalid = true; return kCaptureUnmatched; }
  bool unjoined = false;
  for (void* p : streams) {
    auto* t = static_cast<Stream*>(p);
    if (t->capture != graph) continue;
    unjoined |= t != s && !t->joined;
    t->capture = nullptr;
    t->joined = true;
  }
  graph->origin = nullptr;
  if (graph->invalid) return kCaptureInvalidated;
  if (unjoined) return kCaptureUnjoined;
  *out = new GraphHandle(graph);
  return kSuccess;
}
API int cudaGraphInstantiate(GraphHandle** exec, GraphHandle* graph, unsigned long long) {
  *exec = new GraphHandle(*graph);
  return kSuccess;
}
API int cudaGraphDestroy(GraphHandle* graph) { delete graph; return kSuccess; }
API int cudaGraphExecDestroy(GraphHandle* exec) { return cudaGraphDestroy(exec); }
API int cudaGraphLaunch(GraphHandle* exec, void* stream) {
  return submit(stream, [graph = *exec] {
    count(kGraphLaunches);
    for (auto& run : graph->nodes) if (int code = run()) return code;
    return int(kSuccess);
  });
}

// ---- memory --------------------------------------------------------------------------
namespace {
enum MemoryType { kUnregistered, kHost, kDevice };
struct Allocation { size_t size; MemoryType type; };
std::map<uintptr_t, Allocation> allocations;
size_t used_memory;

// An allocation ends at an inaccessible page, and begins behind one. What is left
// of its own pages in front of it, and up to 15 bytes behind it, is filled with
// poison, as a small allocation itself is.
constexpr size_t kWatched = 64, kPoisoned = 1 << 20;
size_t rounded_up(size_t size, size_t to = 512) { return (size + to - 1) / to * to; }
size_t pages(size_t size) { return rounded_up(rounded_up(size, 16) + kWatched, kPage); }

int allocate(void** out, size_t size, MemoryType type) {
  Lock lock(device_lock());
  *out = nullptr;
  if (!size) return kSuccess;
  size_t rounded = rounded_up(size);
  bool full = type == kDevice && used_memory + rounded > total_memory();
  if (rounded < size || full) return kOutOfMemory;
  void* p = mmap(nullptr, pages(size) + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return kOutOfMemory;
  char *first = static_cast<char*>(p) + kPage, *end = first + pages(size), *begin = end - rounded_up(size, 16);
  mprotect(first, end - first, PROT_READ | PROT_WRITE);
  memset(begin - kWatched, kPoison, kWatched);
  memset(begin + size, kPoison, end - begin - size);
  if (size <= kPoisoned) memset(begin, kPoison, size);
  allocations[reinterpret_cast<uintptr_t>(*out = begin)] = {size, type};
  if (type == kDevice) used_memory += rounded;
  return kSuccess;
}
int release(void* p, MemoryType type) {
  Lock lock(device_lock());
  if (!p) return kSuccess;
  auto i = allocations.find(reinterpret_cast<uintptr_t>(p));
  if (i == allocations.end() || i->second.type != type) return kInvalidValue;
  size_t size = i->second.size;
  if (type == kDevice) used_memory -= rounded_up(size);
  munmap(static_cast<char*>(p) + rounded_up(size, 16) - pages(size) - kPage, pages(size) + 2 * kPage);
  allocations.erase(i);
  return kSuccess;
}
const std::pair<const uintptr_t, Allocation>* find_allocation(const void* p) {
  auto i = allocations.upper_bound(reinterpret_cast<uintptr_t>(p));
  if (i == allocations.begin()) return nullptr;
  --i;
  return reinterpret_cast<uintptr_t>(p) < i->first + i->second.size ? &*i : nullptr;
}
MemoryType memory_type(const void* p) {
  auto* found = find_allocation(p);
  return found ? found->second.type : kUnregistered;
}
std::string beside(size_t bytes, const char* where, const Allocation& a) {
  return std::to_string(bytes) + " bytes " + where + " an allocation of " + std::to_string(a.size) + " bytes";
}
// A range that an operation takes for device memory must be inside an
// allocation (or be a variable of a module, which lies in none).
bool valid_device_range(const void* p, size_t n) {
  auto* a = find_allocation(p);
  Dl_info info;
  if (!a) return dladdr(p, &info);
  return reinterpret_cast<uintptr_t>(p) + n <= a->first + a->second.size;
}

bool on_device(const void* p) { return memory_type(p) == kDevice; }

int copy(void* dst, const void* src, size_t n, int kind, void* stream, bool blocking) {
  if (!n) return kSuccess;
  if (!dst || !src || kind < 0 || kind > 4) return kInvalidValue;
  Lock lock(device_lock());
  // cudaMemcpyKind: bit 0 is set if to the device, bit 1 if from it; 4 is "as the addresses say".
  bool to = kind == 4 ? on_device(dst) : kind & 1, from = kind == 4 ? on_device(src) : kind & 2;
  if ((to && !valid_device_range(dst, n)) || (from && !valid_device_range(src, n))) return kInvalidValue;
  // A copy from or to pageable memory passes through the driver's own buffers,
  // for which the calling thread waits.
  if (to != from) blocking |= memory_type(to ? src : dst) != kHost;
  int capturing = 0;
  if (int code = cudaStreamIsCapturing(stream, &capturing)) return code;
  if (blocking && !capturing) count(kBlockingCopies);
  return submit(stream, [=] {
    if (to != from) count(to ? kHostToDevice : kDeviceToHost);
    memmove(dst, src, n);
    return kSuccess;
  });
}
}  // namespace

std::string locate(const char* address) {
  auto at = reinterpret_cast<uintptr_t>(address);
  auto next = allocations.upper_bound(at);
  if (next != allocations.end() && next->first - at <= pages(0) + kPage)
    return ", " + beside(next->first - at, "before", next->second);
  if (next == allocations.begin()) return "";
  auto& [begin, a] = *--next;
  return at < begin + rounded_up(a.size, 16) + kPage ? ", " + beside(at - begin - a.size, "past the end of", a) : "";
}
std::string damaged_allocation() {
  for (auto& [begin, a] : allocations) {
    auto *p = reinterpret_cast<char*>(begin), *end = p + a.size, *slack_end = p + rounded_up(a.size, 16);
    auto before = std::find_if_not(p - kWatched, p, is_poison), behind = std::find_if_not(end, slack_end, is_poison);
    if (before == p && behind == slack_end) continue;
    std::string found = before != p ? beside(p - before, "before", a) : beside(behind - end, "past the end of", a);
    memset(p - kWatched, kPoison, kWatched);  // reported once
    memset(end, kPoison, slack_end - end);
    return "wrote " + found;
  }
  return "";
}

API int cudaMalloc(void** p, size_t n) { count(kMallocs); return allocate(p, n, kDevice); }
API int cudaMallocAsync(void** p, size_t n, void*) { return cudaMalloc(p, n); }
API int cudaFree(void* p) { return release(p, kDevice); }
API int cudaFreeAsync(void* p, void*) { return cudaFree(p); }
API int cudaHostAlloc(void** p, size_t n, unsigned) { return allocate(p, n, kHost); }
API int cudaFreeHost(void* p) { return release(p, kHost); }
API int cudaMemGetInfo(size_t* free, size_t* total) {
  Lock lock(device_lock());
  *total = total_memory();
  *free = *total - used_memory;
  return kSuccess;
}
API int cudaMemcpyAsync(void* dst, const void* src, size_t n, int kind, void* stream) {
  return copy(dst, src, n, kind, stream, false);
}
API int cudaMemcpy(void* dst, const void* src, size_t n, int kind) {
  return copy(dst, src, n, kind, nullptr, true);
}
API int cudaMemsetAsync(void* p, int value, size_t n, void* stream) {
  Lock lock(device_lock());
  if (n && !valid_device_range(p, n)) return kInvalidValue;
  return submit(stream, [=] { if (n) memset(p, value, n); return kSuccess; });
}
API int cudaMemset(void* p, int value, size_t n) { return cudaMemsetAsync(p, value, n, nullptr); }
API int cudaPointerGetAttributes(void* out, const void* p) {
  struct { int type, device; const void *device_pointer, *host_pointer; long reserved[8]; } a{};
  Lock lock(device_lock());
  a.type = memory_type(p);
  a.device_pointer = a.type == kUnregistered ? nullptr : p;
  a.host_pointer = a.type == kDevice ? nullptr : p;
  memcpy(out, &a, sizeof a);
  return kSuccess;
}
