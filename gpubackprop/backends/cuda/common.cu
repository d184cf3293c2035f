// What all kernels share. Put in front of each, behind `typedef ... T;` and the printed functions.
typedef T real;

// Where a run stands. It is read and moved on by the device alone, so that a captured graph, whose
// arguments are fixed, knows the step.
struct State {
    long long update;    // row of the table of scalars
    long long step;      // updates of the network's life: dropout masks depend on it
    long long batch;     // of the epoch
    long long position;  // in the order of rows
};
static_assert(sizeof(State) == 32, "STATE in modules.py must have the same layout");

// Which outputs of a layer dropout keeps: all of them where threshold is 0.
struct Dropout {
    unsigned long long layer_key, threshold, first;  // first: counter of the batch's first output
    real scale;                                      // of what is kept: 1 / (1 - p)
};

// The factor of one output: 0 or scale. (Without dropout nobody asks.)
__device__ __forceinline__ real keep(const Dropout& drop, unsigned long long counter,
                                            const State* state) {
    const unsigned long long key = mix(drop.layer_key ^ (unsigned long long)state->step & 0xFFFFFFFFull);
    const unsigned long long hash = mix((drop.first + counter & 0xFFFFFFFFull) ^ key);
    return hash >= drop.threshold ? drop.scale : real(0);
}

// A load that this multiprocessor's own cache must not answer: another block wrote the data.
template <typename S>
__device__ __forceinline__ S load_l2(const S* p) {
    return __ldcg(p);
}

template <typename S>
__device__ __forceinline__ S group_sum(S x, int lanes) {  // lanes: a power of two up to 32
    for (int o = lanes / 2; o; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}

__device__ __forceinline__ real group_max(real x, int lanes) {
    for (int o = lanes / 2; o; o >>= 1) {
        const real y = __shfl_xor_sync(0xffffffffu, x, o);
        x = y > x ? y : x;
    }
    return x;
}

// Whether this block is the last of `blocks` to come here. What all of them wrote before is visible
// to it then (read it by load_l2), and what they read before may be overwritten. The ticket returns
// to 0. All threads of the block must call it.
__device__ __forceinline__ bool last_to_arrive(unsigned* ticket, unsigned blocks) {
    __shared__ bool last;
    __threadfence();  // our writes, before the ticket is taken
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        last = atomicAdd(ticket, 1u) == blocks - 1;
        if (last) *ticket = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}
