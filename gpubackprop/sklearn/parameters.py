"""Parameters of the estimators: what they may be, and what they mean for the core."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, Options, StrOptions

from gpubackprop.activations import ACTIVATIONS, IDENTITY, SIGMOID, SOFTMAX, Activation
from gpubackprop.backends.base import Backend
from gpubackprop.optimizers import OPTIMIZERS, Optimizer
from gpubackprop.schedules import Schedule

#: Hidden activations by name: scikit-learn's and the core's.
HIDDEN = {"logistic": SIGMOID, **{k: v for k, v in ACTIVATIONS.items() if v.elementwise}}
#: Output activations by scikit-learn's names.
OUTPUT = {**HIDDEN, "identity": IDENTITY, "softmax": SOFTMAX}
#: Solvers: L-BFGS and the names of the core's optimisers.
SOLVERS = {"lbfgs", *OPTIMIZERS}


def _real(low: float, high: float | None, closed: str) -> Interval:
    return Interval(Real, low, high, closed=closed)


#: In the terms of scikit-learn's validation.
CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(set(HIDDEN)), Activation, "array-like"],
    "solver": [StrOptions(SOLVERS), Optimizer],
    "alpha": [_real(0, None, "left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule, callable],
    "learning_rate_init": [_real(0, None, "neither")],
    "power_t": [_real(0, None, "left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [_real(0, None, "left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [_real(0, 1, "both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [_real(0, 1, "left")],
    "beta_1": [_real(0, 1, "left")],
    "beta_2": [_real(0, 1, "left")],
    "epsilon": [_real(0, None, "neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    # What scikit-learn does not have.
    "dropout": [_real(0, 1, "left"), "array-like"],
    "weight_decay": [_real(0, None, "left")],
    "clip_norm": [_real(0, None, "neither"), None],
    "weight_normalisation": [StrOptions({"batch", "dataset"})],
    "validation_split": [StrOptions({"sklearn", "stratified"})],
    "keep_optimizer": ["boolean"],
    "dtype": [StrOptions({"float32", "float64"}), type, np.dtype, None],
    "backend": [str, Backend],
    "executor": [str],
}


def hidden_sizes(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """Return the units of each hidden layer.

    Raises
    ------
    ValueError
        If one is not above 0.
    """
    if not hasattr(hidden_layer_sizes, "__iter__"):
        hidden_layer_sizes = [hidden_layer_sizes]
    sizes = list(hidden_layer_sizes)
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return tuple(int(size) for size in sizes)


def hidden_activations(activation: Any, n_hidden: int) -> tuple[Activation, ...]:
    """Return the activation of each hidden layer.

    Raises
    ------
    ValueError
        If a name is unknown, or there is not one for each layer.
    """
    if isinstance(activation, str | Activation):
        activation = [activation] * n_hidden
    names = list(activation)
    if len(names) != n_hidden:
        raise ValueError(
            f"activation must have one entry for each of the {n_hidden} hidden layers, got {names}"
        )
    for name in names:
        if not isinstance(name, Activation) and name not in HIDDEN:
            raise ValueError(f"activation must be one of {', '.join(HIDDEN)}, got {name!r}")
    return tuple(HIDDEN[name] if isinstance(name, str) else name for name in names)


def dropout_rates(dropout: Any, n_hidden: int) -> tuple[float, ...]:
    """Return the chance of each hidden layer that an output is dropped.

    Raises
    ------
    ValueError
        If there is not one for each layer, or one does not lie in 0..1, 1 excluded.
    """
    rates: list[Any] = [dropout] * n_hidden if np.ndim(dropout) == 0 else list(dropout)
    if len(rates) != n_hidden or not all(0 <= rate < 1 for rate in rates):
        raise ValueError(
            f"dropout must be a number in 0..1 (1 excluded), or {n_hidden} of them, one for each "
            f"hidden layer, got {dropout!r}"
        )
    return tuple(float(rate) for rate in rates)


def draw(
    random_state: np.random.RandomState,
    sizes: tuple[int, ...],
    activations: tuple[Activation, ...],
    dtype: np.dtype,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draw initial weights and biases as scikit-learn draws them.

    Uniform in float64 within Glorot's bounds, layer after layer, weights before biases. The
    output layer's bound goes by the last hidden activation.

    Parameters
    ----------
    random_state : numpy.random.RandomState
    sizes : tuple of int
    activations : tuple of Activation
        Of the hidden layers.
    dtype : numpy.dtype

    Returns
    -------
    coefs : list of array of shape (n_in, n_out)
    intercepts : list of array of shape (n_out,)

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    2010.
    """
    coefs, intercepts = [], []
    for l in range(len(sizes) - 1):
        n_in, n_out = sizes[l], sizes[l + 1]
        near = activations[min(l, len(activations) - 1)] if activations else None
        bound = np.sqrt((2.0 if near == SIGMOID else 6.0) / (n_in + n_out))
        W = random_state.uniform(-bound, bound, (n_in, n_out))
        # Laid out as the network has it, so that the two are quick to compare.
        coefs.append(W.astype(dtype, order="F"))
        intercepts.append(random_state.uniform(-bound, bound, n_out).astype(dtype, copy=False))
    return coefs, intercepts
