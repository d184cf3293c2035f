// The passes between the products of a step. Matrices are row-major and contiguous. Blocks are
// (columns, rows) with 256 threads in all; grids stride over whatever is larger.

// z + b -> z (where it is kept), f(z) -> a, and a times the dropout mask -> h (where there is one).
// z may be a, which then holds f(z).
extern "C" __global__ void __launch_bounds__(256, 4)
bias_activation(real* z, const real* b, real* a, real* h, long long rows, int columns, int kind,
                const real* C, const Dropout drop, const State* state) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    const real bias = b ? b[column] : real(0);
    for (long long r = (long long)blockIdx.y * blockDim.y + threadIdx.y; r < rows;
         r += (long long)gridDim.y * blockDim.y) {
        const size_t at = size_t(r) * columns + column;
        const real sum = z[at] + bias, out = activate(kind, sum, C);
        if (z != a) z[at] = sum;
        a[at] = out;
        if (drop.threshold) h[at] = out * keep(drop, at, state);
    }
}

// delta * f'(z) -> delta, times the dropout mask, and its sum over the rows -> db (where wanted).
// `read` is the layer's a or z, as its f' reads. Row slabs, one a block of the grid's y, leave their
// sums in `partials`; the last to arrive adds them in the order of the slabs, so that the result
// does not depend on who comes last.
extern "C" __global__ void __launch_bounds__(256, 4)
delta_bias_gradient(real* delta, const real* read, real* db, int rows, int columns, int kind,
                    const real* C, const Dropout drop, const State* state, real* partials,
                    unsigned* tickets) {
    __shared__ real sums[256];
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int slabs = gridDim.y, per = (rows + slabs - 1) / slabs;
    const int first = blockIdx.y * per, end = first + per < rows ? first + per : rows;
    real sum = 0;
    if (column < columns)
        for (int r = first + threadIdx.y; r < end; r += blockDim.y) {
            const size_t at = size_t(r) * columns + column;
            real d = delta[at];
            if (drop.threshold) d *= keep(drop, at, state);
            d *= derive(kind, read[at], C);
            delta[at] = d;
            sum += d;
        }
    if (!db) return;
    sums[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (int k = 1; k < blockDim.y; ++k) sum += sums[k * blockDim.x + threadIdx.x];
        partials[size_t(blockIdx.y) * columns + column] = sum;
    }
    if (!last_to_arrive(&tickets[blockIdx.x], slabs)) return;
    if (threadIdx.y == 0 && column < columns) {
        sum = 0;
        for (int s = 0; s < slabs; ++s) sum += load_l2(&partials[size_t(s) * columns + column]);
        db[column] = sum;
    }
}

// Rows of X, of the targets (numbers, or class numbers that become one-hot rows) and of the sample
// weights -> contiguous buffers. Row i is order[first + i], or first + i without an order; a state
// gives its own `first`. A warp a row.
extern "C" __global__ void __launch_bounds__(256, 4)
gather(const real* X, const real* Y, const long long* labels, const real* w, const int* order,
       const long long* wide_order, real* X_out, real* Y_out, real* w_out, int rows, int n_in,
       int n_out, long long first, const State* state) {
    if (state) first += state->position;
    for (int r = blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += gridDim.x * blockDim.y) {
        const long long i = first + r;
        const size_t from = order ? order[i] : wide_order ? wide_order[i] : i;
        for (int k = threadIdx.x; k < n_in; k += 32)
            X_out[size_t(r) * n_in + k] = X[from * n_in + k];
        const long long label = labels ? labels[from] : -1;
        for (int k = threadIdx.x; k < n_out; k += 32)
            Y_out[size_t(r) * n_out + k] = labels ? real(k == label) : Y[from * n_out + k];
        if (w && threadIdx.x == 0) w_out[r] = w[from];
    }
}
