// Runs a kernel: one device thread after another, on the calling thread.
//
// A device thread is a plain function call for as long as it does not wait.
// The calls are made on a separate stack (a fiber). Only when a thread has to
// wait (__syncthreads, a warp shuffle, a grid sync) is its fiber set aside and
// a fresh one taken for the threads that have not begun. So a kernel that
// never synchronises costs one call per thread, and a kernel that does costs a
// few nanoseconds per switch; nothing has to be known about it beforehand.
//
// Blocks run one after another and share the module's __shared__ variables,
// which are ordinary static variables in a linker section of their own. In a
// cooperative launch all blocks are alive at once: then each keeps an image of
// that section, swapped in when one of its threads runs.
#include "cpucuda.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>

// The built-in variables of device code (declared in cpucuda_device.h).
alignas(128) static char dynamic_shared[kSharedOptin];
extern "C" {
Dim3 threadIdx, blockIdx, blockDim, gridDim;
char* cpucuda_dynamic_shared = dynamic_shared;
}

namespace {

constexpr size_t kStackSize = 256 << 10, kGuard = 4096;
constexpr unsigned char kPoison = 0xFF;  // fresh __shared__ memory reads as NaN

struct Block;
struct Fiber {
  void* sp = nullptr;
  char *stack = nullptr, *top = nullptr;
  Block* block = nullptr;
  unsigned tid = 0;                  // within the block
  Dim3 thread{};                     // the same, as threadIdx
};

// A warp-wide exchange that some of its lanes have reached.
struct WarpOp { uint32_t mask, arrived; };
struct Warp {
  uint32_t alive = 0;
  std::vector<WarpOp> pending;
  uint64_t in[kWarp], out[kWarp];
  int source[kWarp];
  Fiber* fiber[kWarp];
};

struct Barrier {
  std::vector<Fiber*> waiting;
  unsigned arrived = 0;
};

struct Block {
  Dim3 index;
  unsigned started, alive;
  Dim3 next;                         // threadIdx of the next thread to start
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<char> shared;          // only in a cooperative launch
};

// The launch in progress; device_lock() sees to it that there is one at most.
struct Engine {
  const Launch* launch = nullptr;
  void** params = nullptr;
  unsigned threads = 0;              // of a block
  std::vector<Block> blocks;         // those that are alive at once
  size_t next_block = 0;             // first of them with unstarted threads
  unsigned grid_alive = 0;
  Barrier grid_barrier;
  std::deque<Fiber*> ready;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  Fiber* current = nullptr;
  Block* resident = nullptr;         // whose __shared__ data is in place
  void* scheduler_sp = nullptr;
  int failure = 0;
} E;

// switch_stack(&save, load): the whole of a fiber switch on x86-64.
extern "C" void cpucuda_switch_stack(void** save, void* load);
asm(R"(
.text
.hidden cpucuda_switch_stack
.globl cpucuda_switch_stack
cpucuda_switch_stack:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
)");

void fiber_main();

Fiber* new_fiber() {
  if (E.idle.empty()) {
    void* p = mmap(nullptr, kStackSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    mprotect(p, kGuard, PROT_NONE);
    // Stacks that began at the same place in a page would all compete for the
    // same few lines of the processor's caches.
    size_t shift = E.fibers.size() % 56 * 576;
    E.fibers.push_back(std::make_unique<Fiber>());
    E.idle.push_back(E.fibers.back().get());
    E.idle.back()->stack = static_cast<char*>(p);
    E.idle.back()->top = static_cast<char*>(p) + kStackSize - shift;
  }
  Fiber* f = E.idle.back();
  E.idle.pop_back();
  void** top = reinterpret_cast<void**>(f->top);
  *--top = nullptr;                  // keeps the stack 16-byte aligned
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  f->sp = top;
  return f;
}

// Saves the __shared__ data that is in place for `from`, and puts that of `to` there.
void swap_shared(Block* from, Block& to) {
  const Module& module = *E.launch->kernel->module;
  size_t fixed = module.shared_size, dynamic = E.launch->dynamic_shared;
  char* begin = module.shared_begin;
  to.shared.resize(fixed + dynamic, static_cast<char>(kPoison));
  if (from && fixed) memcpy(from->shared.data(), begin, fixed);
  if (from && dynamic) memcpy(from->shared.data() + fixed, dynamic_shared, dynamic);
  if (fixed) memcpy(begin, to.shared.data(), fixed);
  if (dynamic) memcpy(dynamic_shared, to.shared.data() + fixed, dynamic);
}

void enter(Fiber* f) {               // make f's thread the current one
  E.current = f;
  threadIdx = f->thread;
  if (f->block == E.resident) return;
  blockIdx = f->block->index;
  if (E.launch->cooperative) swap_shared(E.resident, *f->block);
  E.resident = f->block;
}

void to_scheduler() { cpucuda_switch_stack(&E.current->sp, E.scheduler_sp); }

void wait() {                        // until put on the ready queue
  Fiber* self = E.current;
  to_scheduler();
  enter(self);
}

void release(Barrier& b) {
  for (Fiber* f : b.waiting) E.ready.push_back(f);
  b.waiting.clear();
  b.arrived = 0;
}

// `alive` threads take part; the last of them to come lets the others go on.
void arrive(Barrier& b, unsigned alive) {
  if (++b.arrived == alive) return release(b);
  b.waiting.push_back(E.current);
  wait();
}

bool complete_warp_op(Warp& w, size_t i) {
  WarpOp op = w.pending[i];
  if (op.arrived != (op.mask & w.alive) || !op.arrived) return false;
  uint64_t all = 0;
  for (unsigned l = 0; l < kWarp; l++) if (op.arrived >> l & 1) all |= w.in[l];
  for (unsigned l = 0; l < kWarp; l++) {
    if (!(op.arrived >> l & 1)) continue;
    w.out[l] = w.source[l] < 0 ? all : w.in[w.source[l]];
    if (w.fiber[l] != E.current) E.ready.push_back(w.fiber[l]);
  }
  w.pending.erase(w.pending.begin() + i);
  return true;
}

// A thread has returned: those that wait for it may go on without it.
void thread_exit(Fiber* f) {
  Block& b = *f->block;
  b.alive--;
  E.grid_alive--;
  Warp& w = b.warps[f->tid / kWarp];
  w.alive &= ~(1u << f->tid % kWarp);
  if (b.barrier.arrived && b.barrier.arrived == b.alive) release(b.barrier);
  if (E.grid_barrier.arrived && E.grid_barrier.arrived == E.grid_alive) release(E.grid_barrier);
  for (size_t i = 0; i < w.pending.size();) i += !complete_warp_op(w, i);
}

bool all_started() {
  while (E.next_block < E.blocks.size() && E.blocks[E.next_block].started == E.threads)
    E.next_block++;
  return E.next_block == E.blocks.size();
}

// Runs unstarted threads until there are none, or one of them waits.
void fiber_main() {
  Fiber* self = E.current;
  while (!all_started()) {
    Block& b = E.blocks[E.next_block];
    self->block = &b;
    self->tid = b.started++;
    self->thread = b.next;
    if (++b.next.x == blockDim.x) {
      b.next.x = 0;
      if (++b.next.y == blockDim.y) { b.next.y = 0; b.next.z++; }
    }
    enter(self);
    E.launch->kernel->entry->invoke(E.params);
    thread_exit(self);
  }
  E.idle.push_back(self);
  to_scheduler();
  __builtin_unreachable();
}

// Runs everything in E.blocks to its end.
void run_blocks() {
  while (!E.failure) {
    Fiber* f;
    if (!E.ready.empty()) {
      f = E.ready.front();
      E.ready.pop_front();
    } else {
      if (all_started()) break;
      if (!(f = new_fiber())) { E.failure = kOutOfResources; return; }
    }
    E.current = f;
    cpucuda_switch_stack(&E.scheduler_sp, f->sp);
  }
  if (E.failure || !E.grid_alive) return;
  fprintf(stderr, "cpucuda: kernel %s: %u threads wait at a barrier that others never reach\n",
          E.launch->kernel->name.c_str(), E.grid_alive);
  E.failure = kLaunchFailure;
}

void abandon(int code) {             // from device code: give up the launch
  E.failure = code;
  to_scheduler();
  __builtin_unreachable();
}

void report(const char* what) {
  fprintf(stderr, "cpucuda: kernel %s: %s in block (%u,%u,%u) thread (%u,%u,%u)\n",
          E.launch->kernel->name.c_str(), what, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
          threadIdx.y, threadIdx.z);
}

// A fault in device code becomes a CUDA error. The handler does not unwind: it
// makes the interrupted code go on in fault_entry, at the top of its own stack.
int fault_code;
void fault_entry() { abandon(fault_code); }
struct sigaction previous[NSIG];

void on_fault(int sig, siginfo_t*, void* context) {
  auto* regs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  char* sp = reinterpret_cast<char*>(regs[REG_RSP]);
  Fiber* f = E.current;
  if (!f || sp < f->stack - kGuard || sp >= f->top) {
    sigaction(sig, &previous[sig], nullptr);  // not ours: fault again, unhandled
    return;
  }
  fault_code = sig == SIGFPE ? kLaunchFailure : kIllegalAddress;
  report(sig == SIGFPE ? "integer division by zero" : "illegal memory access");
  regs[REG_RSP] = reinterpret_cast<greg_t>(f->top - 8);
  regs[REG_RIP] = reinterpret_cast<greg_t>(&fault_entry);
}

struct FaultHandlers {               // in place only while a kernel runs
  static constexpr int signals[3] = {SIGSEGV, SIGBUS, SIGFPE};
  stack_t old_stack;
  FaultHandlers() {
    static char area[64 << 10];
    stack_t s{};
    s.ss_sp = area;
    s.ss_size = sizeof area;
    sigaltstack(&s, &old_stack);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int sig : signals) sigaction(sig, &action, &previous[sig]);
  }
  ~FaultHandlers() {
    for (int sig : signals) sigaction(sig, &previous[sig], nullptr);
    sigaltstack(&old_stack, nullptr);
  }
};

// Blocks are used again from launch to launch, with the memory they have.
void start_block(Block& b, Dim3 index) {
  b.index = index;
  b.started = 0;
  b.alive = E.threads;
  b.next = {0, 0, 0};
  b.barrier = {};
  b.shared.clear();
  b.warps.resize((E.threads + kWarp - 1) / kWarp);
  for (unsigned t = 0; t < E.threads; t += kWarp) {
    b.warps[t / kWarp].alive = E.threads - t >= kWarp ? ~0u : (1u << (E.threads - t)) - 1;
    b.warps[t / kWarp].pending.clear();
  }
  E.grid_alive += E.threads;
  E.next_block = 0;
  E.resident = nullptr;
}

void run_grid(const Launch& l) {
  const size_t count = size_t(l.grid.x) * l.grid.y * l.grid.z;
  const Module& module = *l.kernel->module;
  E.blocks.resize(l.cooperative ? count : 1);
  for (size_t i = 0; i < count && !E.failure; i++) {
    Dim3 index{unsigned(i % l.grid.x), unsigned(i / l.grid.x % l.grid.y), unsigned(i / l.grid.x / l.grid.y)};
    start_block(E.blocks[l.cooperative ? i : 0], index);
    if (l.cooperative) continue;
    if (module.shared_size) memset(module.shared_begin, kPoison, module.shared_size);
    if (l.dynamic_shared) memset(dynamic_shared, kPoison, l.dynamic_shared);
    run_blocks();
  }
  if (l.cooperative) run_blocks();
}

}  // namespace

int run_launch(const Launch& launch, void** params) {
  Lock lock(device_lock());
  count_launch(*launch.kernel);
  FaultHandlers handlers;
  gridDim = launch.grid;
  blockDim = launch.block;
  E.launch = &launch;
  E.params = params;
  E.threads = blockDim.x * blockDim.y * blockDim.z;
  E.grid_alive = 0;
  E.grid_barrier = {};
  E.failure = 0;
  run_grid(launch);
  if (E.failure) {                   // threads are stranded on their fibers
    E.ready.clear();
    E.idle.clear();
    for (auto& f : E.fibers) E.idle.push_back(f.get());
  }
  E.current = nullptr;
  return E.failure;
}

// ---- what device code calls (declared in include/cpucuda_device.h) ----------

API void cpucuda_block_barrier() { arrive(E.current->block->barrier, E.current->block->alive); }

API void cpucuda_grid_barrier() {
  if (!E.launch->cooperative) {
    report("grid sync in a launch that is not cooperative");
    abandon(kLaunchFailure);
  }
  arrive(E.grid_barrier, E.grid_alive);
}

// The lanes of `mask` meet. Each gets the value of its source lane, or if that
// is negative, the bits that any of the values has set.
API uint64_t cpucuda_warp_exchange(uint32_t mask, uint64_t value, int source) {
  Fiber* f = E.current;
  Warp& w = f->block->warps[f->tid / kWarp];
  unsigned lane = f->tid % kWarp;
  if (!(mask >> lane & 1)) {
    report("a warp function's mask leaves its caller out");
    abandon(kLaunchFailure);
  }
  w.in[lane] = value;
  w.source[lane] = source;
  w.fiber[lane] = f;
  size_t i = 0;
  while (i < w.pending.size() && w.pending[i].mask != mask) i++;
  if (i == w.pending.size()) w.pending.push_back({mask, 0});
  w.pending[i].arrived |= 1u << lane;
  if (!complete_warp_op(w, i)) wait();
  return w.out[lane];
}

API uint32_t cpucuda_active_lanes() { return E.current->block->warps[E.current->tid / kWarp].alive; }

API void cpucuda_trap(const char* message) {
  report(message ? message : "trap");
  abandon(message ? kAssert : kLaunchFailure);
}
