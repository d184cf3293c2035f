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
// cooperative launch all blocks are alive at once, in a random order some: then
// each keeps an image of that section, swapped in when one of its threads runs.
//
// Which thread runs when is chosen by cpucuda_set_order(): a missing barrier
// shows as a wrong result in one order or another.
#include "cpucuda.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>

// The built-in variables of device code (declared in cpucuda_device.h).
extern "C" {
Dim3 threadIdx, blockIdx, blockDim, gridDim;
char* cpucuda_dynamic_shared;
}

namespace {

constexpr size_t kStackSize = 256 << 10, kGuard = kPage;
constexpr size_t kAtOnce = 4;        // blocks that run at once in a random order

struct Block;
struct Fiber {
  void* sp = nullptr;
  char *stack = nullptr, *top = nullptr;
  Block* block = nullptr;
  unsigned tid = 0;                  // within the block
  unsigned place = 0;                // how many of the block's threads began before it
  Dim3 thread{};                     // the same, as threadIdx
};

// A warp-wide exchange that some of its lanes have reached, and the source's line.
struct WarpOp { uint32_t mask, arrived; int line; };
struct Warp {
  uint32_t alive = 0;
  std::vector<WarpOp> pending;
  uint64_t in[kWarp], out[kWarp];
  int source[kWarp];
  Fiber* fiber[kWarp];
};

struct Barrier {
  std::vector<Fiber*> waiting;
  int line = 0;                      // of the source
};

struct Block {
  Dim3 index;
  unsigned started, alive;
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<char> shared;          // only if several are alive at once
};

// The launch in progress; device_lock() sees to it that there is one at most.
struct Engine {
  const Launch* launch = nullptr;
  void** params = nullptr;
  unsigned threads = 0;              // of a block
  std::vector<Block> blocks;         // those that are alive at once
  bool together = false;             // whether these may be several
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
  unsigned order = 0;                // see cpucuda_set_order()
  std::minstd_rand random;
  std::vector<unsigned> shuffled;    // the threads of a block, if the order is random
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

// The dynamic __shared__ memory of every launch ends here, at an inaccessible page.
char* dynamic_end() {
  static char* const end = [] {
    void* p = mmap(nullptr, kSharedMost + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    mprotect(static_cast<char*>(p) + kSharedMost, kGuard, PROT_NONE);
    return static_cast<char*>(p) + kSharedMost;
  }();
  return end;
}
// Up to 15 bytes before it belong to nobody, so that the memory begins at a multiple of 16.
bool slack_is_untouched() {
  char* end = dynamic_end();
  return std::all_of(cpucuda_dynamic_shared + E.launch->dynamic_shared, end, is_poison);
}

// Saves the __shared__ data that is in place for `from`, and puts that of `to` there.
void swap_shared(Block* from, Block& to) {
  const Module& module = *E.launch->kernel->module;
  size_t fixed = module.shared_size, dynamic = E.launch->dynamic_shared;
  char *begin = module.shared_begin, *dynamic_shared = cpucuda_dynamic_shared;
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
  if (E.together) swap_shared(E.resident, *f->block);
  E.resident = f->block;
}

void to_scheduler() { cpucuda_switch_stack(&E.current->sp, E.scheduler_sp); }

void wait() {                        // until put on the ready queue
  Fiber* self = E.current;
  to_scheduler();
  enter(self);
}

void report(const char* what) {
  fprintf(stderr, "cpucuda: kernel %s: %s in block (%u,%u,%u) thread (%u,%u,%u)\n",
          E.launch->kernel->name.c_str(), what, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
          threadIdx.y, threadIdx.z);
}

void abandon(int code) {             // from device code: give up the launch
  E.failure = code;
  to_scheduler();
  __builtin_unreachable();
}

// Threads that meet must do so at one place of the source.
void check_line(int expected, int line) {
  if (line == expected) return;
  char text[128];
  snprintf(text, sizeof text, "diverged: waits at line %d, where others wait at line %d,", line, expected);
  report(text);
  abandon(kLaunchFailure);
}

// In the order in which they began, so that the order is the same after every barrier.
void release(Barrier& b) {
  auto before = [](Fiber* x, Fiber* y) {
    return x->block != y->block ? x->block < y->block : x->place < y->place;
  };
  if (!std::is_sorted(b.waiting.begin(), b.waiting.end(), before))
    std::sort(b.waiting.begin(), b.waiting.end(), before);
  E.ready.insert(E.ready.end(), b.waiting.begin(), b.waiting.end());
  b.waiting.clear();
}

// `alive` threads take part; the last of them to come lets all go on.
void arrive(Barrier& b, unsigned alive, int line) {
  if (b.waiting.empty()) b.line = line;
  check_line(b.line, line);
  b.waiting.push_back(E.current);
  if (b.waiting.size() == alive) release(b);
  wait();
}

bool complete_warp_op(Warp& w, size_t i) {
  WarpOp op = w.pending[i];
  if (op.arrived != (op.mask & w.alive) || !op.arrived) return false;
  uint64_t all = 0;
  for (unsigned l = 0; l < kWarp; l++) if (op.arrived >> l & 1) all |= w.in[l];
  for (unsigned k = 0; k < kWarp; k++) {
    unsigned l = E.order == 1 ? kWarp - 1 - k : k;
    if (!(op.arrived >> l & 1)) continue;
    w.out[l] = w.source[l] < 0 ? all : w.in[w.source[l]];
    E.ready.push_back(w.fiber[l]);
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
  if (b.alive && b.barrier.waiting.size() == b.alive) release(b.barrier);
  if (E.grid_alive && E.grid_barrier.waiting.size() == E.grid_alive) release(E.grid_barrier);
  for (size_t i = 0; i < w.pending.size();) i += !complete_warp_op(w, i);
}

bool all_started() {
  while (E.next_block < E.blocks.size() && E.blocks[E.next_block].started == E.threads)
    E.next_block++;
  return E.next_block == E.blocks.size();
}

// One whose threads have not all started; in a random order any of them.
Block& block_to_start() {
  size_t n = E.blocks.size() - E.next_block, i = E.order > 1 ? E.random() % n : 0;
  while (E.blocks[E.next_block + i].started == E.threads) i = (i + 1) % n;
  return E.blocks[E.next_block + i];
}

// Element i of a sequence of n in the order of this launch.
size_t in_order(size_t i, size_t n, const std::vector<unsigned>& shuffled) {
  return E.order == 0 ? i : E.order == 1 ? n - 1 - i : shuffled[i];
}
void shuffle(std::vector<unsigned>& some, size_t n) {
  some.resize(n);
  std::iota(some.begin(), some.end(), 0u);
  std::shuffle(some.begin(), some.end(), E.random);
}
Dim3 unravel(size_t i, Dim3 n) {
  if (i < n.x) return {unsigned(i), 0, 0};
  return {unsigned(i % n.x), unsigned(i / n.x % n.y), unsigned(i / n.x / n.y)};
}

// Runs unstarted threads until there are none, or one of them waits.
void fiber_main() {
  Fiber* self = E.current;
  while (!all_started()) {
    Block& b = block_to_start();
    self->block = &b;
    self->place = b.started++;
    self->tid = unsigned(in_order(self->place, E.threads, E.shuffled));
    self->thread = unravel(self->tid, blockDim);
    enter(self);
    E.launch->kernel->entry->invoke(E.params);
    thread_exit(self);
    if (E.order > 1 && !E.ready.empty()) break;
  }
  E.idle.push_back(self);
  to_scheduler();
  __builtin_unreachable();
}

// Runs everything in E.blocks to its end.
void run_blocks() {
  while (!E.failure) {
    Fiber* f;
    // In a random order some go on before others have begun.
    if (E.ready.empty() || (E.order > 1 && E.random() % 2 && !all_started())) {
      if (all_started()) break;
      if (!(f = new_fiber())) { E.failure = kOutOfResources; return; }
    } else {
      if (E.order > 1) std::swap(E.ready[E.random() % E.ready.size()], E.ready.front());
      f = E.ready.front();
      E.ready.pop_front();
    }
    E.current = f;
    cpucuda_switch_stack(&E.scheduler_sp, f->sp);
  }
  if (E.failure || !E.grid_alive) return;
  fprintf(stderr, "cpucuda: kernel %s: %u threads wait at a barrier that others never reach\n",
          E.launch->kernel->name.c_str(), E.grid_alive);
  E.failure = kLaunchFailure;
}

// A fault in device code becomes a CUDA error. The handler does not unwind: it
// makes the interrupted code go on in fault_entry, at the top of its own stack.
int fault_code;
void fault_entry() { abandon(fault_code); }
struct sigaction previous[NSIG];

// What was wrong, in words.
std::string describe_fault(int sig, const char* at, bool writing) {
  if (sig == SIGFPE) return "integer division by zero";
  if (sig == SIGILL) return "index past the end of an array";  // -fsanitize=bounds, see nvrtc.cpp
  char* end = dynamic_end();
  std::string where = at >= end && at < end + kGuard ? ", past the end of the shared memory" : locate(at);
  return std::string("illegal memory access (") + (writing ? "write" : "read") + where + ")";
}

void on_fault(int sig, siginfo_t* info, void* context) {
  auto* regs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  char* sp = reinterpret_cast<char*>(regs[REG_RSP]);
  Fiber* f = E.current;
  if (!f || sp < f->stack - kGuard || sp >= f->top) {
    sigaction(sig, &previous[sig], nullptr);  // not ours: fault again, unhandled
    return;
  }
  fault_code = sig == SIGFPE ? kLaunchFailure : kIllegalAddress;
  report(describe_fault(sig, static_cast<char*>(info->si_addr), regs[REG_ERR] & 2).c_str());
  regs[REG_RSP] = reinterpret_cast<greg_t>(f->top - 8);
  regs[REG_RIP] = reinterpret_cast<greg_t>(&fault_entry);
}

struct FaultHandlers {               // in place only while a kernel runs
  static constexpr int signals[4] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
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
  char* end = dynamic_end();
  cpucuda_dynamic_shared = end - (l.dynamic_shared + 15) / 16 * 16;
  memset(cpucuda_dynamic_shared, kPoison, end - cpucuda_dynamic_shared);
  std::vector<unsigned> shuffled;
  if (E.order > 1) shuffle(shuffled, count);
  const size_t at_once = l.cooperative ? count : E.order > 1 ? kAtOnce : 1;
  E.together = at_once > 1;
  for (size_t first = 0; first < count && !E.failure; first += at_once) {
    const size_t n = std::min(at_once, count - first);
    E.blocks.resize(n);
    if (E.order > 1) shuffle(E.shuffled, E.threads);
    for (size_t i = 0; i < n; i++)
      start_block(E.blocks[i], unravel(in_order(first + i, count, shuffled), l.grid));
    if (!E.together) {
      if (module.shared_size) memset(module.shared_begin, kPoison, module.shared_size);
      if (l.dynamic_shared) memset(cpucuda_dynamic_shared, kPoison, l.dynamic_shared);
    }
    run_blocks();
  }
  if (E.failure) return;
  if (!slack_is_untouched()) {
    report("wrote past the end of the shared memory, somewhere up to the last thread");
    E.failure = kIllegalAddress;
  }
  std::string damage = damaged_allocation();
  if (damage.empty()) return;
  report((damage + ", somewhere up to the last thread").c_str());
  E.failure = kIllegalAddress;
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

// Threads and blocks run in ascending order (0), descending order (1), or a random one of that seed.
API void cpucuda_set_order(unsigned order) {
  Lock lock(device_lock());
  E.order = order;
  E.random.seed(order);
}

API void cpucuda_block_barrier(int line) {
  arrive(E.current->block->barrier, E.current->block->alive, line);
}

API void cpucuda_grid_barrier(int line) {
  if (!E.launch->cooperative) {
    report("grid sync in a launch that is not cooperative");
    abandon(kLaunchFailure);
  }
  arrive(E.grid_barrier, E.grid_alive, line);
}

// The lanes of `mask` meet. Each gets the value of its source lane, or if that
// is negative, the bits that any of the values has set.
API uint64_t cpucuda_warp_exchange(uint32_t mask, uint64_t value, int source, int line) {
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
  if (i == w.pending.size()) w.pending.push_back({mask, 0, line});
  check_line(w.pending[i].line, line);
  w.pending[i].arrived |= 1u << lane;
  complete_warp_op(w, i);
  wait();
  return w.out[lane];
}

API uint32_t cpucuda_active_lanes() { return E.current->block->warps[E.current->tid / kWarp].alive; }

API void cpucuda_trap(const char* message) {
  report(message ? message : "trap");
  abandon(message ? kAssert : kLaunchFailure);
}
