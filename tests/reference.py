"""Backpropagation once more, as a textbook writes it: a sample and a layer at a time, in float64.

Nothing here comes from the library: each derivative was taken by hand, each optimiser is a loop
over its own arrays, and the dropout hash is done with Python's integers.
"""

import math

import numpy as np

# ---- activations: f and f' of a vector z ---------------------------------------------------------


def sigmoid(z):
    return np.array([1 / (1 + math.exp(-t)) for t in z])


def normal_cdf(z):
    return np.array([0.5 * math.erfc(-t / math.sqrt(2)) for t in z])


def normal_density(z):
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def step(z, left):
    """Return 1 where z > 0 and `left` elsewhere."""
    return np.array(
        [1.0 if t > 0 else s for t, s in zip(z, np.broadcast_to(left, z.shape), strict=True)]
    )


F = {
    "identity": lambda z: z.copy(),
    "sigmoid": sigmoid,
    "tanh": lambda z: np.array([math.tanh(t) for t in z]),
    "relu": lambda z: np.array([max(t, 0.0) for t in z]),
    "leaky_relu": lambda z: np.array([t if t > 0 else 0.01 * t for t in z]),
    "elu": lambda z: np.array([t if t > 0 else math.exp(t) - 1 for t in z]),
    "softplus": lambda z: np.array([math.log(1 + math.exp(t)) for t in z]),
    "silu": lambda z: z * sigmoid(z),
    "gelu": lambda z: z * normal_cdf(z),
    "exp": lambda z: np.array([math.exp(t) for t in z]),
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(),
}
SLOPE = {
    "identity": np.ones_like,
    "sigmoid": lambda z: sigmoid(z) * sigmoid(-z),
    "tanh": lambda z: 1 / np.cosh(z) ** 2,
    "relu": lambda z: step(z, 0.0),
    "leaky_relu": lambda z: step(z, 0.01),
    "elu": lambda z: step(z, np.exp(z)),
    "softplus": sigmoid,
    "silu": lambda z: sigmoid(z) + z * sigmoid(z) * sigmoid(-z),
    "gelu": lambda z: normal_cdf(z) + z * normal_density(z),
    "exp": np.exp,
}

# ---- losses of one sample, and their gradients with respect to its outputs -----------------------


def squared(o, y):
    return 0.5 * sum((o - y) ** 2), o - y


def log_loss(o, y):
    value = -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in zip(o, y, strict=True))
    return value, (1 - y) / (1 - o) - y / o


def cross_entropy(o, y):
    return -sum(t * math.log(p) for p, t in zip(o, y, strict=True)), -y / o


def poisson(o, y):
    """Half the Poisson deviance."""
    value = sum(p - t + (t * math.log(t / p) if t else 0.0) for p, t in zip(o, y, strict=True))
    return value, 1 - y / o


def absolute(o, y):
    return sum(abs(o - y)), np.sign(o - y)


def huber(o, y, limit=1.0):
    e = o - y
    inside = abs(e) <= limit
    value = sum(np.where(inside, e**2 / 2, limit * abs(e) - limit**2 / 2))
    return value, np.clip(e, -limit, limit)


def quantile(o, y, q=0.5):
    value = sum(max(q * (t - p), (q - 1) * (t - p)) for p, t in zip(o, y, strict=True))
    return value, np.where(y > o, -q, np.where(y < o, 1 - q, 0.0))


LOSS = {
    "squared": squared,
    "log_loss": log_loss,
    "cross_entropy": cross_entropy,
    "poisson": poisson,
    "absolute": absolute,
    "huber": huber,
    "quantile": quantile,
}

# ---- dropout -------------------------------------------------------------------------------------

M = 2**32


def lowbias32(x):
    x ^= x >> 16
    x = x * 0x7FEB352D % M
    x ^= x >> 15
    x = x * 0x846CA68B % M
    return x ^ (x >> 16)


def mask(seed, layer, steps, p, row, n):
    """Return the mask of one row: 1 / (1 - p) or 0 for each of n units."""
    key = lowbias32(lowbias32(lowbias32(seed % M) ^ layer) ^ steps % M)
    hashes = [lowbias32(key ^ (row * n + unit) % M) for unit in range(n)]
    return np.array([1 / (1 - p) if h >= round(p * M) else 0.0 for h in hashes])


# ---- the network ---------------------------------------------------------------------------------


class Net:
    """A float64 copy of a network's numbers, with the textbook's algorithm.

    `layers` is a list of [W, b]; b is None without biases.
    """

    def __init__(self, network):
        model, to_numpy = network.model, network.backend.to_numpy
        self.layers = [
            [
                np.array(to_numpy(W), "float64"),
                None if b is None else np.array(to_numpy(b), "float64"),
            ]
            for W, b in zip(network.weights, network.biases, strict=True)
        ]
        self.activations = [activation.name for activation in model.activations]
        self.loss_of = LOSS[model.loss.name]
        self.dropout = [*model.dropout, 0.0]
        self.seed, self.steps = network._dropout_seed, network._steps
        self.memory = {}
        self.updates = 0

    def sample(self, x, y, row=None):
        """Return the loss of one sample and its gradient, one [dW, db] a layer.

        `row` is its place in the batch, for dropout; None drops nothing.
        """
        read, zs, masks, a = [], [], [], x
        for l, (W, b) in enumerate(self.layers):
            read.append(a)
            z = W @ a + (0 if b is None else b)
            a = F[self.activations[l]](z)
            zs.append(z)
            drop = row is not None and self.dropout[l] > 0
            masks.append(
                mask(self.seed, l, self.steps, self.dropout[l], row, len(a)) if drop else 1.0
            )
            a = a * masks[-1]
        value, error = self.loss_of(a, y)
        gradient = []
        for l in reversed(range(len(self.layers))):
            W, b = self.layers[l]
            if self.activations[l] == "softmax":
                delta = (np.diag(a) - np.outer(a, a)) @ error
            else:
                delta = error * masks[l] * SLOPE[self.activations[l]](zs[l])
            gradient.append([np.outer(delta, read[l]), None if b is None else delta])
            error = W.T @ delta
        return value, gradient[::-1]

    def batch(self, X, Y, w=None, dropping=False):
        """Return the summed loss of a batch and the gradient of its mean."""
        w = np.ones(len(X)) if w is None else w
        total, mean = 0.0, [[W * 0, None if b is None else b * 0] for W, b in self.layers]
        for i in range(len(X)):
            value, gradient = self.sample(X[i], Y[i], i if dropping else None)
            total += w[i] * value
            for layer, of_sample in zip(mean, gradient, strict=True):
                for k in (0, 1):
                    if layer[k] is not None:
                        layer[k] = layer[k] + w[i] * of_sample[k] / len(X)
        return total, mean

    def outputs(self, X):
        out = []
        for a in X:
            for (W, b), name in zip(self.layers, self.activations, strict=True):
                a = F[name](W @ a + (0 if b is None else b))
            out.append(a)
        return np.array(out)

    def loss(self, X, Y, w=None):
        return self.batch(X, Y, scaled(w))[0] / len(X)

    # ---- training

    def update(self, gradient, rule, learning_rate, trainable=None, **options):
        """Let a rule move every array, W with penalties and decay, b without."""
        self.updates += 1
        pieces = []
        for l, layer in enumerate(self.layers):
            for k in (0, 1):
                if layer[k] is None:
                    continue
                g = gradient[l][k]
                if k == 0:
                    g = (
                        g
                        + options.get("l2", 0) * layer[0]
                        + options.get("l1", 0) * np.sign(layer[0])
                    )
                free = 1.0 if trainable is None else np.asarray(trainable[k][l], float)
                pieces.append((l, k, g * free, free))
        norm = math.sqrt(sum((g**2).sum() for _, _, g, _ in pieces))
        limit = options.get("clip_norm")
        factor = limit / norm if limit is not None and norm > limit else 1.0
        for l, k, g, free in pieces:
            w = self.layers[l][k]
            if k == 0:
                w = w - learning_rate * options.get("weight_decay", 0) * w * free
            memory = self.memory.setdefault((l, k), {})
            self.layers[l][k] = rule(w, g * factor, learning_rate, self.updates, memory)
        self.steps += 1

    def fit(self, X, Y, batch_size, epochs, rule, learning_rate, *, rng=None, w=None, **options):
        """Train; returns the mean loss of each epoch."""
        X, Y, w, n = np.asarray(X, float), np.asarray(Y, float), scaled(w), len(X)
        losses = []
        dropping = any(self.dropout)
        for epoch in range(epochs):
            order = np.arange(n, dtype=np.int32)
            if rng is not None and batch_size < n:
                rng.shuffle(order)
            total = 0.0
            for start in range(0, n, batch_size):
                rows = list(order[start : start + batch_size])
                value, gradient = self.batch(
                    X[rows], Y[rows], None if w is None else w[rows], dropping
                )
                total += value
                rate = learning_rate(epoch) if callable(learning_rate) else learning_rate
                self.update(gradient, rule, rate, **options)
            losses.append(total / n)
        return losses


def scaled(w):
    """Scale weights to mean 1."""
    return None if w is None else np.asarray(w, float) * len(w) / math.fsum(w)


# ---- optimisers: (w, g, learning_rate, t, memory) -> new w ---------------------------------------


def sgd(w, g, rate, t, memory):
    return w - rate * g


def momentum(factor, nesterov=False):
    def rule(w, g, rate, t, memory):
        v = memory["v"] = factor * memory.get("v", 0.0) - rate * g
        return w + (factor * v - rate * g if nesterov else v)

    return rule


def rmsprop(rho, epsilon):
    def rule(w, g, rate, t, memory):
        memory["s"] = rho * memory.get("s", 0.0) + (1 - rho) * g * g
        return w - rate * g / (np.sqrt(memory["s"]) + epsilon)

    return rule


def adam(beta1, beta2, epsilon, corrected=True):
    def rule(w, g, rate, t, memory):
        m = memory["m"] = beta1 * memory.get("m", 0.0) + (1 - beta1) * g
        v = memory["v"] = beta2 * memory.get("v", 0.0) + (1 - beta2) * g**2
        if corrected:
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            return w - rate * m_hat / (np.sqrt(v_hat) + epsilon)
        return w - rate * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + epsilon)

    return rule


def rprop(start, increase=1.2, decrease=0.5, low=1e-6, high=50.0):
    def rule(w, g, rate, t, memory):
        steps = memory.setdefault("step", np.full(g.shape, start))
        last = memory.setdefault("g", np.zeros(g.shape))
        w = w.copy()
        for i in np.ndindex(g.shape):
            now = g[i]
            if now * last[i] > 0:
                steps[i] = min(steps[i] * increase, high)
            elif now * last[i] < 0:
                steps[i] = max(steps[i] * decrease, low)
                now = 0.0
            w[i] -= math.copysign(steps[i], now) if now else 0.0
            last[i] = now
        return w

    return rule


# ---- comparing -----------------------------------------------------------------------------------

#: Largest difference, as a share of the largest number of the array, after a pass forward and back.
NEAR = {"float32": 4e-6, "float64": 1e-13}


def near(actual, expected, dtype, factor=1.0):
    """Compare two arrays (or lists) as wholes; a NaN fails."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape
    largest = np.abs(expected).max(initial=0.0)
    tolerance = NEAR[np.dtype(dtype).name] * factor * max(largest, 1e-3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def compare(network, reference, dtype, factor=1.0):
    """Compare a network's parameters with the reference's."""
    to_numpy = network.backend.to_numpy
    for W, b, (W_expected, b_expected) in zip(
        network.weights, network.biases, reference.layers, strict=True
    ):
        near(to_numpy(W), W_expected, dtype, factor)
        assert (b is None) == (b_expected is None)
        if b is not None:
            near(to_numpy(b), b_expected, dtype, factor)
