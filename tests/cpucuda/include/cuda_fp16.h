// A half: it computes as a float, and rounds when it is stored.
#pragma once
#include "cpucuda_device.h"

struct __half_raw { unsigned short x; };
struct __half {
  unsigned short bits;
  __half() = default;
  __half(const __half_raw& r) : bits(r.x) {}
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> __half(T v) {
    bits = static_cast<unsigned short>(cpucuda::to_bits(static_cast<_Float16>(v)));
  }
  operator float() const { return float(cpucuda::from_bits<_Float16>(bits)); }
  operator __half_raw() const { return {bits}; }
};
typedef __half half;

inline float __half2float(__half v) { return v; }
inline __half __float2half(float v) { return __half(v); }
inline __half __float2half_rn(float v) { return __half(v); }
inline unsigned short __half_as_ushort(__half v) { return v.bits; }
inline __half __ushort_as_half(unsigned short v) { return __half_raw{v}; }
