// The CUDA C++ language, as far as a host compiler can be taught it. This header
// is put in front of every kernel source; the functions named cpucuda_* are in
// src/engine.cpp. The marks __global__ and __shared__ are dealt with in
// src/nvrtc.cpp.
#pragma once
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define CUDART_VERSION 13000
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __CUDA_ARCH__ 800

// ---- built-in types and variables ------------------------------------------
#define CPUCUDA_VECTOR(T, N, A2, A4)                                            \
  struct N##1 { T x; };                                                         \
  struct alignas(A2) N##2 { T x, y; };                                          \
  struct N##3 { T x, y, z; };                                                   \
  struct alignas(A4) N##4 { T x, y, z, w; };                                    \
  inline N##1 make_##N##1(T x) { return {x}; }                                  \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; }                          \
  inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }                  \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CPUCUDA_VECTOR(unsigned char, uchar, 2, 4)
CPUCUDA_VECTOR(int, int, 8, 16)
CPUCUDA_VECTOR(unsigned int, uint, 8, 16)
CPUCUDA_VECTOR(float, float, 8, 16)
CPUCUDA_VECTOR(double, double, 16, 16)
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

extern "C" {
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
extern char* cpucuda_dynamic_shared;
void cpucuda_block_barrier(int line);
void cpucuda_grid_barrier(int line);
uint64_t cpucuda_warp_exchange(uint32_t mask, uint64_t value, int source, int line);
uint32_t cpucuda_active_lanes();
[[noreturn]] void cpucuda_trap(const char* message);
}
static const int warpSize = 32;
#undef assert
#define assert(e) ((e) ? (void)0 : cpucuda_trap("assertion failed: " #e))
inline void __trap() { cpucuda_trap(nullptr); }

// ---- synchronisation ---------------------------------------------------------
// The last parameter is the line of the call: threads that meet must be at the same one.
#define CPUCUDA_LINE int line = __builtin_LINE()
inline void __syncthreads(CPUCUDA_LINE) { cpucuda_block_barrier(line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
inline unsigned __activemask() { return cpucuda_active_lanes(); }

namespace cpucuda {
template <class T> uint64_t to_bits(T v) {
  static_assert(sizeof(T) <= 8, "warp functions take values of up to 8 bytes");
  uint64_t b = 0;
  memcpy(&b, &v, sizeof v);
  return b;
}
template <class T> T from_bits(uint64_t b) {
  T v;
  memcpy(&v, &b, sizeof v);
  return v;
}
inline int lane() {
  return int((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}
template <class T> T shuffle(unsigned mask, T v, int source, int line) {
  return from_bits<T>(cpucuda_warp_exchange(mask, to_bits(v), source, line));
}
}  // namespace cpucuda

inline void __syncwarp(unsigned mask = ~0u, CPUCUDA_LINE) { cpucuda_warp_exchange(mask, 0, -1, line); }
inline unsigned __ballot_sync(unsigned mask, int p, CPUCUDA_LINE) {
  return static_cast<unsigned>(cpucuda_warp_exchange(mask, p ? 1u << cpucuda::lane() : 0u, -1, line));
}
inline int __any_sync(unsigned mask, int p, CPUCUDA_LINE) { return __ballot_sync(mask, p, line) != 0; }
inline int __all_sync(unsigned mask, int p, CPUCUDA_LINE) { return __ballot_sync(mask, !p, line) == 0; }
// The source lane is clipped to the caller's segment of `width` lanes; a lane
// that has none there, or whose source is out of the mask, gets its own value.
template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32, CPUCUDA_LINE) {
  int l = cpucuda::lane();
  return cpucuda::shuffle(mask, v, (l & ~(width - 1)) | (source & (width - 1)), line);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, CPUCUDA_LINE) {
  int l = cpucuda::lane(), s = l - static_cast<int>(d);
  return cpucuda::shuffle(mask, v, s < (l & ~(width - 1)) ? l : s, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, CPUCUDA_LINE) {
  int l = cpucuda::lane(), s = l + static_cast<int>(d);
  return cpucuda::shuffle(mask, v, s > (l | (width - 1)) ? l : s, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, CPUCUDA_LINE) {
  int l = cpucuda::lane(), s = l ^ x;
  return cpucuda::shuffle(mask, v, s > (l | (width - 1)) ? l : s, line);
}

// ---- atomics: device threads never run at the same time ------------------------
#define CPUCUDA_ATOMIC(name, T, expression) \
  inline T name(T* p, T v) { T old = *p; *p = (expression); return old; }
#define CPUCUDA_ATOMIC_INTS(name, expression) \
  CPUCUDA_ATOMIC(name, int, expression) CPUCUDA_ATOMIC(name, unsigned, expression) \
  CPUCUDA_ATOMIC(name, unsigned long long, expression)
CPUCUDA_ATOMIC_INTS(atomicAdd, old + v)
CPUCUDA_ATOMIC(atomicAdd, float, old + v)
CPUCUDA_ATOMIC(atomicAdd, double, old + v)
CPUCUDA_ATOMIC_INTS(atomicSub, old - v)
CPUCUDA_ATOMIC_INTS(atomicExch, v)
CPUCUDA_ATOMIC(atomicExch, float, v)
CPUCUDA_ATOMIC_INTS(atomicMin, v < old ? v : old)
CPUCUDA_ATOMIC_INTS(atomicMax, old < v ? v : old)
CPUCUDA_ATOMIC_INTS(atomicAnd, old & v)
CPUCUDA_ATOMIC_INTS(atomicOr, old | v)
CPUCUDA_ATOMIC_INTS(atomicXor, old ^ v)
#define CPUCUDA_CAS(T) \
  inline T atomicCAS(T* p, T compare, T v) { T old = *p; if (old == compare) *p = v; return old; }
CPUCUDA_CAS(int) CPUCUDA_CAS(unsigned) CPUCUDA_CAS(unsigned long long) CPUCUDA_CAS(unsigned short)

// ---- arithmetic ------------------------------------------------------------------
// min and max of any two numbers, NaN giving way to the other number.
template <class A, class B, class T = std::common_type_t<A, B>>
std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, T> min(A a, B b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
  else return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B, class T = std::common_type_t<A, B>>
std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, T> max(A a, B b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
  else return T(a) < T(b) ? T(b) : T(a);
}

inline float __int_as_float(int v) { return cpucuda::from_bits<float>(cpucuda::to_bits(v)); }
inline float __uint_as_float(unsigned v) { return cpucuda::from_bits<float>(v); }
inline int __float_as_int(float v) { return static_cast<int>(cpucuda::to_bits(v)); }
inline unsigned __float_as_uint(float v) { return static_cast<unsigned>(cpucuda::to_bits(v)); }
inline double __longlong_as_double(long long v) { return cpucuda::from_bits<double>(v); }
inline long long __double_as_longlong(double v) { return static_cast<long long>(cpucuda::to_bits(v)); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clzll(long long v) { return v ? __builtin_clzll(v) : 64; }
inline int __ffs(int v) { return __builtin_ffs(v); }

// Fast approximations, computed exactly.
#define CPUCUDA_UNARY(name, T, e) inline T name(T x) { return e; }
#define CPUCUDA_BINARY(name, T, e) inline T name(T x, T y) { return e; }
CPUCUDA_UNARY(__expf, float, expf(x)) CPUCUDA_UNARY(__exp10f, float, exp10f(x))
CPUCUDA_UNARY(__logf, float, logf(x)) CPUCUDA_UNARY(__log2f, float, log2f(x))
CPUCUDA_UNARY(__log10f, float, log10f(x)) CPUCUDA_UNARY(__sinf, float, sinf(x))
CPUCUDA_UNARY(__cosf, float, cosf(x)) CPUCUDA_UNARY(__tanhf, float, tanhf(x))
CPUCUDA_UNARY(__saturatef, float, x > 0 ? (x < 1 ? x : 1.f) : 0.f)
CPUCUDA_UNARY(rsqrtf, float, 1 / sqrtf(x))
CPUCUDA_UNARY(rsqrt, float, 1 / sqrtf(x)) CPUCUDA_UNARY(rsqrt, double, 1 / sqrt(x))
CPUCUDA_BINARY(__fdividef, float, x / y) CPUCUDA_BINARY(__powf, float, powf(x, y))

// ---- what the rewriting in src/nvrtc.cpp refers to ---------------------------------
namespace cpucuda {
// `extern __shared__ T name[];` becomes `T* const name = cpucuda::DynamicShared{};`
struct DynamicShared {
  template <class T> operator T*() const { return reinterpret_cast<T*>(cpucuda_dynamic_shared); }
};

// A kernel of this module: TableEntry in src/cpucuda.h.
struct Entry {
  const char* expression;
  void* address;
  void (*invoke)(void**);
  const size_t* sizes;
  int count;
  bool by_expression;
  Entry* next;
};
}  // namespace cpucuda
extern "C" cpucuda::Entry* cpucuda_kernels;
namespace cpucuda {
template <auto F, class... A, size_t... I> void call(void** p, void (*)(A...), std::index_sequence<I...>) {
  F((*static_cast<std::remove_const_t<A>*>(p[I]))...);
}
// Adds a kernel to the list, wherever in the source its name is known.
template <auto F> struct Register {
  Entry entry;
  explicit Register(const char* expression, bool by_expression = false) {
    add(expression, by_expression, F);
  }
  template <class... A> void add(const char* expression, bool by_expression, void (*f)(A...)) {
    static const size_t sizes[] = {sizeof(A)..., 0};
    auto invoke = [](void** p) { call<F>(p, decltype(F){}, std::index_sequence_for<A...>{}); };
    entry = {expression, reinterpret_cast<void*>(f), invoke, sizes, int(sizeof...(A)), by_expression,
             cpucuda_kernels};
    cpucuda_kernels = &entry;
  }
};
}  // namespace cpucuda
