// The output layer from its product on, in one pass: bias, activation, loss, delta, and the sums.

// z (rows x columns, the product) -> delta, in place; the batch's summed loss -> value; the sum of
// delta over the rows -> db (where wanted). Block (lanes of a row, rows), 256 threads; grid (1,
// slabs). `partials` takes slabs * columns numbers, `losses` one a slab. The last block to arrive
// adds the slabs in their order.
extern "C" __global__ void __launch_bounds__(256, 2)
output_pass(real* z, const real* b, const real* Y, const real* w, real* db, double* value, int rows,
            int columns, int kind, const real* C, real scale, real* partials, double* losses,
            unsigned* tickets) {
    __shared__ double warp_losses[8];
    const int lane = threadIdx.x, lanes = blockDim.x, thread = threadIdx.y * lanes + lane;
    const int slabs = gridDim.y, slab = blockIdx.y, per = (rows + slabs - 1) / slabs;
    const int first = slab * per, end = first + per < rows ? first + per : rows;
    double loss = 0;
    for (int base = first; base < end; base += blockDim.y) {  // as often for all: shuffles
        const int r = base + threadIdx.y;
        const bool live = r < end;
        const size_t at = size_t(live ? r : first) * columns;
        const real weight = w && live ? w[r] : real(1);
        if (kind == SOFTMAX)
            loss += softmax_row(lane, lanes, live, columns, C, z + at, b, Y + at, scale, weight);
        else if (live)
            loss += elementwise_row(lane, lanes, columns, kind, C, z + at, b, Y + at, scale, weight);
    }
    loss = group_sum(loss, 32);
    if (thread % 32 == 0) warp_losses[thread / 32] = loss;
    __syncthreads();  // it also makes the block's deltas visible to all its threads
    if (thread == 0) {
        for (int k = 1; k < 8; ++k) loss += warp_losses[k];
        losses[slab] = loss;
    }
    if (db)
        for (int column = thread; column < columns; column += 256) {
            real sum = 0;
            for (int r = first; r < end; ++r) sum += z[size_t(r) * columns + column];
            partials[size_t(slab) * columns + column] = sum;
        }
    if (!last_to_arrive(tickets, slabs)) return;
    if (thread == 0) {
        loss = 0;
        for (int s = 0; s < slabs; ++s) loss += load_l2(&losses[s]);
        *value = loss;
    }
    if (db)
        for (int column = thread; column < columns; column += 256) {
            real sum = 0;
            for (int s = 0; s < slabs; ++s) sum += load_l2(&partials[size_t(s) * columns + column]);
            db[column] = sum;
        }
}
