// cuBLAS: the products of matrices and vectors in float and double, by the
// OpenBLAS inside the NumPy wheel.
#include "cpucuda.h"

#include <dlfcn.h>

#include <cstring>

namespace {

enum { kOk = 0, kBlasInvalidValue = 7, kBlasExecutionFailed = 13, kBlasNotSupported = 15 };
enum DataType { kFloat = 0, kDouble = 1, kHalf = 2, kBfloat = 14 };
constexpr int kComputeTf32 = 77;

struct Handle {
  void* stream = nullptr;
  int pointer_mode = 0, math_mode = 0;   // mode 1: scalars are in device memory
};

// OpenBLAS's functions, in Fortran's calling convention.
using Int = const int64_t*;
template <class T> struct OpenBlas {
  void (*gemm)(const char*, const char*, Int, Int, Int, const T*, const T*, Int, const T*, Int, const T*, T*, Int);
  void (*gemv)(const char*, Int, Int, const T*, const T*, Int, const T*, Int, const T*, T*, Int);
  T (*dot)(Int, const T*, Int, const T*, Int);
};
template <class T> OpenBlas<T> openblas;

int run(Handle* h, std::function<void()> operation) {
  if (!openblas<double>.dot) {
    cpucuda_missing("cuBLAS, on a NumPy that does not bring its own OpenBLAS,");
    return kBlasNotSupported;
  }
  auto counted = [=] { count(kBlasCalls); operation(); return int(kSuccess); };
  return submit(h->stream, counted) ? kBlasExecutionFailed : kOk;
}
// A scalar argument: read now, or when the operation runs if on the device.
template <class T> std::function<T()> scalar(Handle* h, const T* p) {
  if (h->pointer_mode == 1) return [p] { return *p; };
  return [v = *p] { return v; };
}

// C = alpha op(A) op(B) + beta C, column-major
template <class T>
int gemm(Handle* h, int ta, int tb, int64_t m, int64_t n, int64_t k, const T* alpha, const T* a, int64_t lda,
         const T* b, int64_t ldb, const T* beta, T* c, int64_t ldc) {
  auto fits = [](int64_t ld, int64_t rows) { return ld >= 1 && ld >= rows; };
  if (m < 0 || n < 0 || k < 0) return kBlasInvalidValue;
  if (!fits(lda, ta ? k : m) || !fits(ldb, tb ? n : k) || !fits(ldc, m)) return kBlasInvalidValue;
  return run(h, [=, alpha = scalar(h, alpha), beta = scalar(h, beta)] {
    T al = alpha(), be = beta();
    openblas<T>.gemm(&"NTC"[ta], &"NTC"[tb], &m, &n, &k, &al, a, &lda, b, &ldb, &be, c, &ldc);
  });
}
template <class T>
int gemv(Handle* h, int t, int64_t m, int64_t n, const T* alpha, const T* a, int64_t lda, const T* x,
         int64_t incx, const T* beta, T* y, int64_t incy) {
  return run(h, [=, alpha = scalar(h, alpha), beta = scalar(h, beta)] {
    T al = alpha(), be = beta();
    openblas<T>.gemv(&"NTC"[t], &m, &n, &al, a, &lda, x, &incx, &be, y, &incy);
  });
}
template <class T>
int dot(Handle* h, int64_t n, const T* x, int64_t incx, const T* y, int64_t incy, T* out) {
  if (h->pointer_mode == 0) count(kSynchronizations);  // the caller waits for the result
  return run(h, [=] { *out = openblas<T>.dot(&n, x, &incx, y, &incy); });
}
}  // namespace

API void cpucuda_use_blas(const char* path) {  // NumPy's has 64-bit integers and a prefix
  void* h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  auto find = [h](auto& function, const char* name) {
    if (h) function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(h, name));
  };
  find(openblas<float>.gemm, "scipy_sgemm_64_");
  find(openblas<float>.gemv, "scipy_sgemv_64_");
  find(openblas<float>.dot, "scipy_sdot_64_");
  find(openblas<double>.gemm, "scipy_dgemm_64_");
  find(openblas<double>.gemv, "scipy_dgemv_64_");
  find(openblas<double>.dot, "scipy_ddot_64_");
}
API int cublasCreate_v2(Handle** h) { *h = new Handle; return kOk; }
API int cublasDestroy_v2(Handle* h) { delete h; return kOk; }
API int cublasGetVersion_v2(Handle*, int* v) { *v = 130000; return kOk; }
API int cublasSetStream_v2(Handle* h, void* s) { h->stream = s; return kOk; }
API int cublasSetWorkspace_v2(Handle*, void*, size_t) { return kOk; }
API int cublasSetPointerMode_v2(Handle* h, int m) { h->pointer_mode = m; return kOk; }
API int cublasGetPointerMode_v2(Handle* h, int* m) { *m = h->pointer_mode; return kOk; }
API int cublasSetMathMode(Handle* h, int m) { h->math_mode = m; return kOk; }
API int cublasGetMathMode(Handle* h, int* m) { *m = h->math_mode; return kOk; }

#define FOR_TYPE(L, T)                                                                                       \
  API int cublas##L##gemv_v2(Handle* h, int t, int m, int n, const T* al, const T* a, int lda, const T* x,   \
                             int ix, const T* be, T* y, int iy) {                                            \
    return gemv<T>(h, t, m, n, al, a, lda, x, ix, be, y, iy);                                                \
  }                                                                                                          \
  API int cublas##L##dot_v2(Handle* h, int n, const T* x, int ix, const T* y, int iy, T* r) {                \
    return dot<T>(h, n, x, ix, y, iy, r);                                                                    \
  }
FOR_TYPE(S, float) FOR_TYPE(D, double)

// An input of gemmEx as float32: 16 bits widened, and for TF32 the mantissa rounded to 10 bits.
static std::vector<float> widened(const void* p, int type, bool tf32, size_t n) {
  std::vector<float> r(n);
  auto bits_to_float = [](uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; };
  for (size_t i = 0; i < n; i++) {
    if (type == kHalf) r[i] = float(static_cast<const _Float16*>(p)[i]);
    else if (type == kBfloat) r[i] = bits_to_float(uint32_t(static_cast<const uint16_t*>(p)[i]) << 16);
    else r[i] = static_cast<const float*>(p)[i];
    uint32_t bits;
    memcpy(&bits, &r[i], 4);
    if (tf32 && r[i] == r[i]) r[i] = bits_to_float((bits + 0x0fff + (bits >> 13 & 1)) & ~0x1fffu);
  }
  return r;
}

// The gemm that CuPy calls, with the types as arguments.
API int cublasGemmEx(Handle* h, int ta, int tb, int m, int n, int k, const void* al, const void* a, int a_type,
                     int lda, const void* b, int b_type, int ldb, const void* be, void* c, int c_type, int ldc,
                     int compute, int) {
  auto as = [=](auto zero) {
    using T = decltype(zero);
    auto number = [](const void* p) { return static_cast<const T*>(p); };
    return gemm<T>(h, ta, tb, m, n, k, number(al), number(a), lda, number(b), ldb, number(be),
                   static_cast<T*>(c), ldc);
  };
  bool tf32 = compute == kComputeTf32, narrow = a_type == kHalf || a_type == kBfloat;
  if (a_type == b_type && c_type == kFloat && (narrow || tf32) && h->pointer_mode == 0) {
    float al_value = *static_cast<const float*>(al), be_value = *static_cast<const float*>(be);
    return run(h, [=] {
      auto A = widened(a, a_type, tf32, size_t(lda) * (ta ? m : k));
      auto B = widened(b, b_type, tf32, size_t(ldb) * (tb ? k : n));
      int64_t M = m, N = n, K = k, LDA = lda, LDB = ldb, LDC = ldc;
      openblas<float>.gemm(&"NTC"[ta], &"NTC"[tb], &M, &N, &K, &al_value, A.data(), &LDA, B.data(), &LDB,
                           &be_value, static_cast<float*>(c), &LDC);
    });
  }
  if (a_type == b_type && b_type == c_type && c_type == kFloat) return as(0.0f);
  if (a_type == b_type && b_type == c_type && c_type == kDouble) return as(0.0);
  cpucuda_missing("cublasGemmEx for these types");
  return kBlasNotSupported;
}
