// SGD with one sample an update, thousands of samples in one launch, by one block: all parameters and
// the optimiser's slots are in its shared memory, and nothing leaves the multiprocessor between two
// samples. Barriers a sample: 2 L + 2, one more to clip. They stand behind each layer's way forward
// (L), the output's delta, each hidden delta (L - 1), the update of all layers, and the next sample.
//
// Shared memory, in numbers: parameters | slots, each laid out like the parameters | target | x |
// and for each layer what f' reads, what the next layer reads, and delta, where the table says.

constexpr int MAX_LAYERS = 16;
constexpr int AHEAD = 4;  // numbers of the next sample that a thread holds in registers

struct Layer {
    int n_in, n_out;
    int flat_W, flat_b;  // places in the flat buffers of global memory; flat_b is -1 without biases
    int W, b;            // places in shared memory, as those below
    int read, h, delta;  // what f' reads and what the next layer reads (may be one), dL/dz
    int kind, C;         // the activation, and where its constants begin
    int keeps_z;         // whether f' reads z
    Dropout drop;
};
struct Net {  // passed by value: it is in the constant bank
    int n_layers, n_parameters, target, x;
    Layer layer[MAX_LAYERS];
};
static_assert(sizeof(Net) == 16 + MAX_LAYERS * 80, "NET in block.py must have the same layout");

// ---- samples -------------------------------------------------------------------------------------

struct Samples {
    const real *X, *Y, *w;
    const long long* labels;
    const int* order;
    const long long* wide_order;
    long long first;
    int n_in, n_out;

    __device__ __forceinline__ long long row(int s) const {
        const long long i = first + s;
        return order ? order[i] : wide_order ? wide_order[i] : i;
    }
    __device__ __forceinline__ real weight(long long row) const { return w ? w[row] : real(1); }
    // Number i of a sample: the target, then x.
    __device__ __forceinline__ real number(long long row, int i) const {
        if (i >= n_out) return X[size_t(row) * n_in + i - n_out];
        return labels ? real(labels[row] == i) : Y[size_t(row) * n_out + i];
    }
    // The loads of a sample begin early ...
    __device__ __forceinline__ void fetch(long long row, real (&held)[AHEAD]) const {
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int i = threadIdx.x + k * blockDim.x;
            held[k] = i < n_out + n_in ? number(row, i) : real(0);
        }
    }
    // ... and it is put in place when the one before it is done with.
    __device__ __forceinline__ void place(long long row, const real (&held)[AHEAD], real* to) const {
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int i = threadIdx.x + k * blockDim.x;
            if (i < n_out + n_in) to[i] = held[k];
        }
        for (int i = threadIdx.x + AHEAD * blockDim.x; i < n_out + n_in; i += blockDim.x)
            to[i] = number(row, i);
    }
};

// ---- forward and back ----------------------------------------------------------------------------

// Lanes that work on a row of n numbers together: a power of two up to a warp, so that a layer of few
// inputs leaves no lane idle.
__device__ __forceinline__ int lanes_of(int n) {
    int lanes = 32;
    while (lanes > 1 && lanes / 2 >= n) lanes /= 2;
    return lanes;
}

// One layer forward; of the output layer the product alone, which goes where its delta will be.
__device__ __forceinline__ void forward_layer(real* S, const Layer& layer, int x, bool last,
                                              const real* constants, const State& now) {
    const int lanes = lanes_of(layer.n_in), lane = threadIdx.x % lanes;
    const int at_once = blockDim.x / lanes;
    for (int base = 0; base < layer.n_out; base += at_once) {  // as often for all: shuffles
        const int j = base + threadIdx.x / lanes;
        const bool live = j < layer.n_out;
        const real* W = S + layer.W + j * layer.n_in;
        real z = 0;
        for (int i = lane; live && i < layer.n_in; i += lanes) z += W[i] * S[x + i];
        z = group_sum(z, lanes);
        if (!live || lane != 0) continue;
        if (last) {
            S[layer.delta + j] = z;
            continue;
        }
        if (layer.flat_b >= 0) z += S[layer.b + j];
        const real a = activate(layer.kind, z, constants + layer.C);
        S[layer.read + j] = layer.keeps_z ? z : a;
        if (layer.h != layer.read)
            S[layer.h + j] = layer.drop.threshold ? a * keep(layer.drop, j, &now) : a;
    }
}

// From the output layer's product to its delta, by one warp; returns the sample's loss.
__device__ __forceinline__ double output_layer(real* S, const Net& net, real weight,
                                               const real* constants) {
    const Layer& layer = net.layer[net.n_layers - 1];
    const real *b = layer.flat_b < 0 ? nullptr : S + layer.b, *C = constants + layer.C;
    real* z = S + layer.delta;
    const double loss =
        layer.kind == SOFTMAX
            ? softmax_row(threadIdx.x, 32, true, layer.n_out, C, z, b, S + net.target, 1, weight)
            : elementwise_row(threadIdx.x, 32, layer.n_out, layer.kind, C, z, b, S + net.target, 1,
                              weight);
    return group_sum(loss, 32);
}

// delta of the layer below.
__device__ __forceinline__ void back_layer(real* S, const Layer& layer, const Layer& below,
                                           const real* constants, const State& now) {
    for (int i = threadIdx.x; i < layer.n_in; i += blockDim.x) {
        const real* W = S + layer.W + i;
        real e = 0;
        for (int j = 0; j < layer.n_out; ++j) e += W[j * layer.n_in] * S[layer.delta + j];
        if (below.drop.threshold) e *= keep(below.drop, i, &now);
        S[below.delta + i] = e * derive(below.kind, S[below.read + i], constants + below.C);
    }
}

// ---- the update ----------------------------------------------------------------------------------

// Calls visit(place in shared memory, place in the flat buffer, gradient, whether it is a weight).
template <typename Visit>
__device__ __forceinline__ void for_each_entry(const real* S, const Net& net, Visit visit) {
    int x = net.x;
    for (int l = 0; l < net.n_layers; ++l) {
        const Layer& layer = net.layer[l];
        const int lanes = lanes_of(layer.n_in), lane = threadIdx.x % lanes;
        for (int j = threadIdx.x / lanes; j < layer.n_out; j += blockDim.x / lanes) {
            const real d = S[layer.delta + j];
            const int row = j * layer.n_in;
            for (int i = lane; i < layer.n_in; i += lanes)
                visit(layer.W + row + i, layer.flat_W + row + i, d * S[x + i], true);
            if (lane == 0 && layer.flat_b >= 0) visit(layer.b + j, layer.flat_b + j, d, false);
        }
        x = layer.h;
    }
}

// What one update is given, in registers.
struct Rule {
    real scalars[N_SCALARS], constants[N_CONSTANTS + 1], limit;
    const real* trainable;
    int decays, penalised;
};

// What the optimiser is given for an entry, before clipping.
__device__ __forceinline__ real entry_gradient(const Rule& rule, real w, int flat, real g, bool weight) {
    if (weight) penalize(w, g, rule.scalars);
    return rule.trainable ? g * rule.trainable[flat] : g;
}

// Sums of all threads, in double and in a fixed order: each warp leaves its own, and behind a barrier
// they are added up.
__device__ __forceinline__ void leave(double sum, double* of_warps) {
    sum = group_sum(sum, 32);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
}
__device__ __forceinline__ double add_up(const double* of_warps) {
    double sum = 0;
    for (int k = 0; k < blockDim.x / 32; ++k) sum += of_warps[k];
    return sum;
}

// How much the gradient has to be scaled down. The square of a large float is infinite.
__device__ __forceinline__ real clipping(const real* S, const Net& net, const Rule& rule) {
    __shared__ double squares[16];
    double sum = 0;
    for_each_entry(S, net, [&](int at, int flat, real g, bool weight) {
        const double x = entry_gradient(rule, S[at], flat, g, weight);
        sum += x * x;
    });
    leave(sum, squares);
    __syncthreads();
    const real length = sqrt(add_up(squares));
    return length <= rule.limit ? real(1) : rule.limit / length;  // a NaN goes on, to be noticed
}

// Leaves the penalties of W before the step, where they are part of the loss.
__device__ __forceinline__ void update_all(real* S, const Net& net, const Rule& rule,
                                           double* penalties) {
    const real factor = rule.limit > 0 ? clipping(S, net, rule) : real(1);
    double penalty = 0;
    for_each_entry(S, net, [&](int at, int flat, real g, bool weight) {
        real w = S[at];
        if (weight && rule.penalised) penalty += penalty_value(w, rule.scalars);
        const real x = entry_gradient(rule, w, flat, g, weight) * factor;
        if (weight && rule.decays)
            decay(w, rule.trainable ? rule.trainable[flat] : real(1), rule.scalars[0]);
        real own[N_SLOTS + 1];
#pragma unroll
        for (int k = 0; k < N_SLOTS; ++k) own[k] = S[at + (k + 1) * net.n_parameters];
        descend(x, w, own, rule.scalars, rule.constants);
#pragma unroll
        for (int k = 0; k < N_SLOTS; ++k) S[at + (k + 1) * net.n_parameters] = own[k];
        S[at] = w;
    });
    if (rule.penalised) leave(penalty, penalties);
}

// ---- between global and shared memory ------------------------------------------------------------

// Calls move(number in shared memory, number in global memory) for parameters and slots.
template <typename Move>
__device__ __forceinline__ void for_each_parameter(real* S, real* flat, const Slots& slots,
                                                   const Net& net, Move move) {
    for (int k = 0; k <= N_SLOTS; ++k) {
        real *here = S + k * net.n_parameters, *there = k ? slots.at[k - 1] : flat;
        for (int l = 0; l < net.n_layers; ++l) {
            const Layer& layer = net.layer[l];
            for (int i = threadIdx.x; i < layer.n_out * layer.n_in; i += blockDim.x)
                move(here[layer.W + i], there[layer.flat_W + i]);
            if (layer.flat_b >= 0)
                for (int i = threadIdx.x; i < layer.n_out; i += blockDim.x)
                    move(here[layer.b + i], there[layer.flat_b + i]);
        }
    }
}

// Up to 512 threads, a multiple of 32. `limit` is that of the gradient's norm, 0 without one.
extern "C" __global__ void __launch_bounds__(512, 1)
sgd_block(real* flat, const Slots slots, const real* trainable, const real* X, const real* Y,
          const long long* labels, const real* w, const int* order, const long long* wide_order,
          long long first, int count, const __grid_constant__ Net net, const real* constants,
          const real* table, long long row_step, const real* C, real limit, int decays,
          int penalised, State* state, double* total, double* first_bad) {
    extern __shared__ real S[];
    __shared__ double penalties[16];
    const int L = net.n_layers, n_in = net.layer[0].n_in, n_out = net.layer[L - 1].n_out;
    const Samples samples = {X, Y, w, labels, order, wide_order, first, n_in, n_out};
    State now = *state;
    Rule rule;
    rule.limit = limit, rule.trainable = trainable, rule.decays = decays, rule.penalised = penalised;
#pragma unroll
    for (int k = 0; k < N_CONSTANTS; ++k) rule.constants[k] = C[k];
    double loss = *total, bad = *first_bad;  // thread 0 alone keeps the tally

    for_each_parameter(S, flat, slots, net, [](real& here, real& there) { here = there; });
    real held[AHEAD];
    real weight = samples.weight(samples.row(0));
    samples.fetch(samples.row(0), held);
    samples.place(samples.row(0), held, S + net.target);
    __syncthreads();
    for (int s = 0; s < count; ++s) {
        const long long next = samples.row(s + 1 < count ? s + 1 : s);
        const real next_weight = samples.weight(next);
#pragma unroll
        for (int k = 0; k < N_SCALARS; ++k) rule.scalars[k] = table[now.update * row_step + k];
        int x = net.x;
        for (int l = 0; l < L; ++l) {
            forward_layer(S, net.layer[l], x, l == L - 1, constants, now);
            x = net.layer[l].h;
            __syncthreads();
        }
        if (threadIdx.x < 32) {
            const double one = output_layer(S, net, weight, constants);
            record_loss(one, double(now.batch), loss, bad);
        }
        __syncthreads();
        for (int l = L - 1; l >= 1; --l) {
            back_layer(S, net.layer[l], net.layer[l - 1], constants, now);
            __syncthreads();
        }
        samples.fetch(next, held);  // on its way during the update
        update_all(S, net, rule, penalties);
        __syncthreads();
        if (penalised && threadIdx.x == 0) loss += add_up(penalties);
        samples.place(next, held, S + net.target);
        weight = next_weight;
        now.update += 1, now.step += 1, now.batch += 1;
        __syncthreads();
    }
    for_each_parameter(S, flat, slots, net, [](real& here, real& there) { there = here; });
    if (threadIdx.x == 0) {
        *total = loss, *first_bad = bad;
        now.position += count;
        *state = now;
    }
}
