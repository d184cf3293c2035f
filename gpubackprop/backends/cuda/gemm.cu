// Products with what follows them in the same pass, for networks whose steps are too short for
// cuBLAS's launches, and for CUDA graphs, in which CuPy cannot use cuBLAS. Row-major:
//   forward   z = X W^T + b, a = f(z), h = a times the dropout mask     gemm_forward
//   backward  delta = (delta W) times mask * f'(z)                      gemm_backward
//   gradient  dW = delta^T X, db = sum of delta over the rows           gemm_gradient
// 32 x 32 tiles, 32 deep, 256 threads, 2 x 2 results a thread; the next pair of tiles is fetched
// during the arithmetic. Grid (columns / 32, rows / 32, splits): a product of few tiles and a long
// sum (784 inputs, 30 outputs) is split along the sum, or it would run on one multiprocessor. The
// last block to arrive at a tile adds the partial results in the order of the splits.
// Scratch: partials, splits * (M * N + M) numbers; tickets, one a tile, 0 between launches.

constexpr int TILE = 32, DEPTH = 32, PER_THREAD = TILE * DEPTH / 256;

struct Tiles {  // what one thread holds of the next pair of tiles
    real a[PER_THREAD], b[PER_THREAD];
};

// op(A)[m,k] is A[m * lda + k], or A[k * lda + m] where TA; op(B)[k,n] likewise. Consecutive threads
// walk the contiguous index of either operand.
template <bool TA, bool TB>
__device__ __forceinline__ void fetch(Tiles& t, const real* A, const real* B, int M, int N,
                                             int k0, int k_end, int lda, int ldb, int row0, int col0) {
    const int fast = threadIdx.x % 32, slow = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {
        const int other = slow + i * 8;
        const int m = row0 + (TA ? fast : other), ka = k0 + (TA ? other : fast);
        t.a[i] = m < M && ka < k_end ? A[TA ? size_t(ka) * lda + m : size_t(m) * lda + ka] : real(0);
        const int n = col0 + (TB ? other : fast), kb = k0 + (TB ? fast : other);
        t.b[i] = n < N && kb < k_end ? B[TB ? size_t(n) * ldb + kb : size_t(kb) * ldb + n] : real(0);
    }
}

template <bool TA, bool TB>
__device__ __forceinline__ void store(const Tiles& t, real (*As)[TILE + 1], real (*Bs)[TILE + 1]) {
    const int fast = threadIdx.x % 32, slow = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {  // the padding keeps both directions free of conflicts
        const int other = slow + i * 8;
        As[TA ? other : fast][TA ? fast : other] = t.a[i];
        Bs[TB ? fast : other][TB ? other : fast] = t.b[i];
    }
}

// What becomes of a result: row r, column c, element `at`.
struct Forward {
    real *z, *a, *h;
    const real *b, *C;
    int kind;
    Dropout drop;
    const State* state;
    static constexpr bool sums_rows = false;
    __device__ __forceinline__ void operator()(real x, int c, size_t at) const {
        if (b) x += b[c];
        const real out = activate(kind, x, C);
        if (z != a) z[at] = x;
        a[at] = out;
        if (drop.threshold) h[at] = out * keep(drop, at, state);
    }
};
struct Backward {
    real* delta;
    const real *read, *C;
    int kind;
    Dropout drop;
    const State* state;
    static constexpr bool sums_rows = false;
    __device__ __forceinline__ void operator()(real x, int, size_t at) const {
        if (drop.threshold) x *= keep(drop, at, state);
        delta[at] = x * derive(kind, read[at], C);
    }
};
struct Gradient {
    real* dW;
    static constexpr bool sums_rows = true;
    __device__ __forceinline__ void operator()(real x, int, size_t at) const { dW[at] = x; }
};

template <bool TA, bool TB, typename Then>
__device__ __forceinline__ void gemm(const real* A, const real* B, int M, int N, int K, int lda,
                                            int ldb, real* row_sums, const Then& then, real* partials,
                                            unsigned* tickets) {
    __shared__ real As[DEPTH][TILE + 1];
    __shared__ real Bs[DEPTH][TILE + 1];
    const int row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE, splits = gridDim.z;
    const int tm = threadIdx.x / 16, tn = threadIdx.x % 16;  // rows tm, tm + 16; columns tn, tn + 16
    const int per = ((K + DEPTH - 1) / DEPTH + splits - 1) / splits * DEPTH;
    const int k_begin = blockIdx.z * per, k_end = k_begin + per < K ? k_begin + per : K;
    const bool sums = Then::sums_rows && row_sums && blockIdx.x == 0 && threadIdx.x < TILE;
    const int sum_row = row0 + threadIdx.x;
    real acc[2][2] = {}, row_sum = 0;
    Tiles next;
    fetch<TA, TB>(next, A, B, M, N, k_begin, k_end, lda, ldb, row0, col0);
    for (int k0 = k_begin; k0 < k_end; k0 += DEPTH) {
        store<TA, TB>(next, As, Bs);
        __syncthreads();
        if (k0 + DEPTH < k_end)
            fetch<TA, TB>(next, A, B, M, N, k0 + DEPTH, k_end, lda, ldb, row0, col0);
        if (sums)
            for (int k = 0; k < DEPTH; ++k) row_sum += As[k][threadIdx.x];
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            const real a0 = As[k][tm], a1 = As[k][tm + 16], b0 = Bs[k][tn], b1 = Bs[k][tn + 16];
            acc[0][0] += a0 * b0;
            acc[0][1] += a0 * b1;
            acc[1][0] += a1 * b0;
            acc[1][1] += a1 * b1;
        }
        __syncthreads();
    }
    real* partial_rows = partials + size_t(splits) * M * N;
    if (splits > 1) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int r = row0 + tm + 16 * i, c = col0 + tn + 16 * j;
                if (r < M && c < N) partials[(size_t(blockIdx.z) * M + r) * N + c] = acc[i][j];
            }
        if (sums && sum_row < M) partial_rows[size_t(blockIdx.z) * M + sum_row] = row_sum;
        if (!last_to_arrive(&tickets[blockIdx.y * gridDim.x + blockIdx.x], splits)) return;
        row_sum = 0;
        if (sums && sum_row < M)
            for (int s = 0; s < splits; ++s) row_sum += load_l2(&partial_rows[size_t(s) * M + sum_row]);
    }
    if (sums && sum_row < M) row_sums[sum_row] = row_sum;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int r = row0 + tm + 16 * i, c = col0 + tn + 16 * j;
            if (r >= M || c >= N) continue;
            const size_t at = size_t(r) * N + c;
            real x = acc[i][j];
            if (splits > 1) {
                x = 0;
                for (int s = 0; s < splits; ++s) x += load_l2(&partials[size_t(s) * M * N + at]);
            }
            then(x, c, at);
        }
}

extern "C" __global__ void __launch_bounds__(256, 2)
gemm_forward(const real* X, const real* W, const real* b, real* z, real* a, real* h, int n, int n_in,
             int n_out, int kind, const real* C, const Dropout drop, const State* state,
             real* partials, unsigned* tickets) {
    const Forward then = {z, a, h, b, C, kind, drop, state};
    gemm<false, true>(X, W, n, n_out, n_in, n_in, n_in, nullptr, then, partials, tickets);
}

extern "C" __global__ void __launch_bounds__(256, 2)
gemm_backward(const real* delta, const real* W, const real* read, real* out, int n, int n_in,
              int n_out, int kind, const real* C, const Dropout drop, const State* state,
              real* partials, unsigned* tickets) {
    const Backward then = {out, read, C, kind, drop, state};
    gemm<false, false>(delta, W, n, n_in, n_out, n_out, n_in, nullptr, then, partials, tickets);
}

extern "C" __global__ void __launch_bounds__(256, 2)
gemm_gradient(const real* delta, const real* X, real* dW, real* db, int n, int n_in, int n_out,
              real* partials, unsigned* tickets) {
    const Gradient then = {dW};
    gemm<true, false>(delta, X, n_out, n_in, n, n_out, n_in, db, then, partials, tickets);
}
