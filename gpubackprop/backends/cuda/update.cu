// The optimiser, for all parameters in one pass: penalties (on W), frozen entries, clipping, decay
// (of W), the step. Parameters, gradient and slots are flat buffers of one layout, all W first.
// Scalars are a row of a table in device memory, of which the state knows the number.

// What the optimiser is given for entry i, before clipping.
__device__ __forceinline__ real entry_gradient(const real* g, const real* trainable, real w,
                                                      long long i, long long n_weights,
                                                      const real* S) {
    real x = g[i];
    if (i < n_weights) penalize(w, x, S);
    return trainable ? x * trainable[i] : x;
}

// The Euclidean norm of the whole gradient, in double: the square of a large float is infinite.
extern "C" __global__ void __launch_bounds__(256, 4)
gradient_norm(const real* W, const real* g, const real* trainable, long long n, long long n_weights,
              const real* table, long long row_step, const State* state, double* partials,
              unsigned* tickets, real* norm) {
    __shared__ double warp_sums[8];
    const real* S = table + state->update * row_step;
    const long long per = (n + gridDim.x - 1) / gridDim.x, first = blockIdx.x * per;
    const long long end = first + per < n ? first + per : n;
    double sum = 0;
    for (long long i = first + threadIdx.x; i < end; i += 256) {
        const double x = entry_gradient(g, trainable, W[i], i, n_weights, S);
        sum += x * x;
    }
    sum = group_sum(sum, 32);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int k = 1; k < 8; ++k) sum += warp_sums[k];
        partials[blockIdx.x] = sum;
    }
    if (!last_to_arrive(tickets, gridDim.x) || threadIdx.x != 0) return;
    sum = 0;
    for (int k = 0; k < gridDim.x; ++k) sum += load_l2(&partials[k]);
    *norm = real(sqrt(sum));
}

// The update. Ends the step: the last block to arrive records the batch's loss and moves the state
// on, which all blocks have read by then.
extern "C" __global__ void __launch_bounds__(256, 4)
update(real* W, const real* g, const Slots slots, const real* trainable, long long n,
       long long n_weights, const real* table, long long row_step, const real* C, const real* norm,
       real limit, int decays, int penalised, int rows, const double* value, double* total,
       double* first_bad, State* state, double* partials, unsigned* tickets) {
    __shared__ double warp_sums[8];
    const real* S = table + state->update * row_step;
    const real length = norm ? *norm : real(0), rate = S[0];
    double penalty = 0;
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < n; i += (long long)gridDim.x * 256) {
        real w = W[i];
        if (penalised && i < n_weights) penalty += penalty_value(w, S);
        real x = entry_gradient(g, trainable, w, i, n_weights, S);
        if (norm && !(length <= limit)) x *= limit / length;  // a NaN goes on, to be noticed
        if (decays && i < n_weights) decay(w, trainable ? trainable[i] : real(1), rate);
        real own[N_SLOTS + 1];
#pragma unroll
        for (int k = 0; k < N_SLOTS; ++k) own[k] = slots.at[k][i];
        descend(x, w, own, S, C);
#pragma unroll
        for (int k = 0; k < N_SLOTS; ++k) slots.at[k][i] = own[k];
        W[i] = w;
    }
    if (penalised) {  // as part of the loss: that of the batch's rows, and of W before the step
        penalty = group_sum(penalty, 32);
        if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = penalty;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int k = 1; k < 8; ++k) penalty += warp_sums[k];
            partials[blockIdx.x] = penalty;
        }
    }
    if (!last_to_arrive(tickets, gridDim.x) || threadIdx.x != 0) return;
    record_loss(*value, double(state->batch), *total, *first_bad);
    if (penalised) {
        penalty = 0;
        for (int k = 0; k < gridDim.x; ++k) penalty += load_l2(&partials[k]);
        *total += rows * penalty;
    }
    state->update += 1;
    state->step += 1;
    state->batch += 1;
    state->position += rows;
}
