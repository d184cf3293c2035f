// The part of the CUDA driver API that CuPy calls: contexts, modules, launches.
#include "cpucuda.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

Module::~Module() { if (handle) dlclose(handle); }

namespace {
char context;                        // there is one, and nothing in it

// What CuPy's module handles point to.
struct LoadedModule {
  std::shared_ptr<Module> module;
  std::vector<std::unique_ptr<Kernel>> kernels;
};

// Opens a shared object given as bytes; dlopen wants a file, if a brief one.
void* open_library(const char* bytes, size_t size) {
  const char* folder = getenv("TMPDIR");
  std::string path = std::string(folder && *folder ? folder : "/tmp") + "/cpucuda-XXXXXX";
  int fd = mkstemp(path.data());
  if (fd < 0) { fprintf(stderr, "cpucuda: cannot write %s\n", path.c_str()); return nullptr; }
  bool written = write(fd, bytes, size) == static_cast<ssize_t>(size);
  close(fd);
  void* handle = written ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!handle) fprintf(stderr, "cpucuda: %s\n", written ? dlerror() : ("cannot fill " + path).c_str());
  unlink(path.c_str());
  return handle;
}
}  // namespace

API int cuInit(unsigned) { return kSuccess; }
API int cuDeviceGetCount(int* n) { *n = 1; return kSuccess; }
API int cuCtxGetCurrent(void** c) { *c = &context; return kSuccess; }
API int cuCtxSetCurrent(void*) { return kSuccess; }
API int cuCtxGetDevice(int* d) { *d = 0; return kSuccess; }
API int cuStreamGetCtx(void*, void** c) { *c = &context; return kSuccess; }

API int cuModuleLoadData(void** out, const void* image) {
  auto* bytes = static_cast<const char*>(image);
  if (memcmp(bytes, kImageMagic, sizeof kImageMagic)) {
    fprintf(stderr, "cpucuda: a module compiled for a GPU (PTX or cubin) cannot run here\n");
    return kInvalidImage;
  }
  uint64_t size;
  memcpy(&size, bytes + sizeof kImageMagic, sizeof size);
  auto module = std::make_shared<Module>();
  module->handle = open_library(bytes + sizeof kImageMagic + sizeof size, size);
  if (!module->handle) return kInvalidImage;
  auto* head = static_cast<TableEntry**>(dlsym(module->handle, "cpucuda_kernels"));
  auto* range = static_cast<char**>(dlsym(module->handle, "cpucuda_shared_range"));
  if (!head || !range) return kInvalidImage;
  module->shared_begin = range[0];
  module->shared_size = range[1] - range[0];
  auto* loaded = new LoadedModule{module, {}};
  for (auto* entry = *head; entry; entry = entry->next) {
    Dl_info info;                    // a kernel that is not extern "C" has a mangled name
    bool named = dladdr(entry->address, &info) && info.dli_saddr == entry->address;
    std::string name = entry->by_expression ? entry->expression : named ? info.dli_sname : "";
    int limit = int(kSharedPerBlock - module->shared_size);
    loaded->kernels.push_back(std::make_unique<Kernel>(Kernel{name, entry, module, limit}));
  }
  *out = loaded;
  return kSuccess;
}
API int cuModuleUnload(LoadedModule* handle) { delete handle; return kSuccess; }
API int cuModuleGetFunction(Kernel** out, LoadedModule* handle, const char* name) {
  for (auto& k : handle->kernels)
    if (k->name == name) { *out = k.get(); return kSuccess; }
  return kNotFound;
}
API int cuModuleGetGlobal_v2(void** p, size_t*, LoadedModule* handle, const char* name) {
  *p = dlsym(handle->module->handle, name);
  return *p ? kSuccess : kNotFound;
}
API int cuFuncGetAttribute(int* v, int attribute, const Kernel* k) {
  *v = attribute == 0   ? int(kMaxThreadsPerBlock)  // numbered by enum CUfunction_attribute
       : attribute == 1 ? int(k->module->shared_size)
       : attribute == 8 ? k->dynamic_limit
       : attribute == 5 || attribute == 6 ? compute_capability() : 0;
  return kSuccess;
}
API int cuFuncSetAttribute(Kernel* k, int attribute, int value) {
  if (attribute != 8) return attribute == 9 ? kSuccess : kInvalidValue;  // 9: a preference
  if (value < 0 || value + k->module->shared_size > shared_optin()) return kInvalidValue;
  k->dynamic_limit = value;
  return kSuccess;
}
API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const Kernel*, int size, size_t) {
  *blocks = size > 0 && size <= int(kMaxThreadsPerBlock) ? std::min(32, kThreadsPerMultiprocessor / size) : 0;
  return kSuccess;
}

static int check_launch(const Launch& l) {
  const Dim3 &grid = l.grid, &block = l.block;
  uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (!threads || threads > kMaxThreadsPerBlock || block.z > 64) return kInvalidValue;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    return kInvalidValue;
  if (l.dynamic_shared > size_t(l.kernel->dynamic_limit)) return kInvalidValue;
  int per_multiprocessor;
  cuOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, l.kernel, int(threads), 0);
  uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (l.cooperative && blocks > uint64_t(per_multiprocessor) * kMultiprocessors)
    return kCooperativeTooLarge;
  return kSuccess;
}
static int launch(Kernel* k, Dim3 grid, Dim3 block, unsigned shared, void* stream, void** params, bool cooperative) {
  Launch l{k, grid, block, shared, cooperative};
  if (int code = check_launch(l)) return code;
  auto* entry = k->entry;
  if (!params && entry->param_count) return cpucuda_missing("cuLaunchKernel without kernelParams");
  int capturing = 0;
  if (int code = cudaStreamIsCapturing(stream, &capturing)) return code;
  if (!capturing) return run_launch(l, params);
  std::vector<std::vector<uint64_t>> copies;
  for (int i = 0; i < entry->param_count; i++) {
    copies.emplace_back((entry->param_sizes[i] + 7) / 8);
    memcpy(copies.back().data(), params[i], entry->param_sizes[i]);
  }
  return submit(stream, [=, kernel = *k]() mutable {  // a copy, which keeps the module
    std::vector<void*> pointers;
    for (auto& c : copies) pointers.push_back(c.data());
    l.kernel = &kernel;
    return run_launch(l, pointers.data());
  });
}
API int cuLaunchKernel(Kernel* k, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void* stream, void** params, void**) {
  return launch(k, {gx, gy, gz}, {bx, by, bz}, shared, stream, params, false);
}
API int cuLaunchCooperativeKernel(Kernel* k, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                  unsigned bz, unsigned shared, void* stream, void** params) {
  return launch(k, {gx, gy, gz}, {bx, by, bz}, shared, stream, params, true);
}
