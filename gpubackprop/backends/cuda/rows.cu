// One row of the output layer, from its product to delta and its share of the loss.

// One row by a group of lanes; z holds the product, and then delta. Returns the lane's share of the
// row's loss.
__device__ __forceinline__ double elementwise_row(int lane, int lanes, int columns, int kind,
                                                         const real* C, real* z, const real* b,
                                                         const real* y, real scale, real weight) {
    double loss = 0;
    for (int j = lane; j < columns; j += lanes) {
        const real sum = z[j] + (b ? b[j] : real(0)), o = activate(kind, sum, C);
        loss += loss_term(kind, o, sum, y[j], C) * weight;
        z[j] = loss_delta(kind, o, sum, y[j], scale, C) * weight;
    }
    return loss;
}

// The same for softmax: numbers are shifted by the row's largest, so that no exp overflows, and the
// loss of a certain class is log(sum) instead of a logarithm of 0. All lanes of a warp must call it;
// those without a row (live is false) touch no memory.
__device__ __forceinline__ double softmax_row(int lane, int lanes, bool live, int columns,
                                                     const real* C, real* z, const real* b,
                                                     const real* y, real scale, real weight) {
    const int end = live ? columns : 0;
    real top = end ? z[0] + (b ? b[0] : real(0)) : real(0);
    for (int j = lane; j < end; j += lanes) {
        const real x = z[j] + (b ? b[j] : real(0));
        top = x > top ? x : top;
    }
    top = group_max(top, lanes);  // (the shuffles also keep z from being written before all read it)
    real sum = 0;
    for (int j = lane; j < end; j += lanes) {
        z[j] = z[j] + (b ? b[j] : real(0)) - top;
        sum += activate(SOFTMAX, z[j], C);
    }
    sum = group_sum(sum, lanes);
    real slopes = 0;
    if (ROW_DELTA) {  // row k of the Jacobian: o[k] * (e[k] - sum(e * o)), e = scale * dloss/do
        for (int j = lane; j < end; j += lanes) {
            const real o = activate(SOFTMAX, z[j], C) / sum;
            slopes += scale * loss_slope(SOFTMAX, o, z[j], y[j], C) * o;
        }
        slopes = group_sum(slopes, lanes);
    }
    real dot = 0;
    double loss = 0;
    for (int j = lane; j < end; j += lanes) {
        const real shifted = z[j], o = activate(SOFTMAX, shifted, C) / sum;
        real delta;
        if (ROW_DELTA)
            delta = o * (scale * loss_slope(SOFTMAX, o, shifted, y[j], C) - slopes);
        else
            delta = loss_delta(SOFTMAX, o, shifted, y[j], scale, C);
        if (ROW_LOSS)  // -sum(y log o) = log(sum) sum(y) - sum(y shifted), and sum(y) = 1
            dot += y[j] * shifted;
        else
            loss += loss_term(SOFTMAX, o, shifted, y[j], C) * weight;
        z[j] = delta * weight;
    }
    if (ROW_LOSS) {
        dot = group_sum(dot, lanes);
        if (live && lane == 0) loss = (log(sum) - dot) * weight;
    }
    return loss;
}
