"""Initialisers: how the weights are drawn before training.

An initialiser is called with a generator and the shape of one layer, and returns its W. Everything
is drawn in float64 on the host: a seed gives the same weights on every backend, and in float32 the
same weights rounded. Biases start at 0 and need none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpubackprop.schedules import check_number

#: A layer's W, drawn by an initialiser: shape (n_out, n_in).
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Initializer:
    """Base of the initialisers. One of one's own defines `__call__`."""

    def __call__(self, rng: np.random.Generator, n_out: int, n_in: int) -> Weights:
        """Return the weights of one layer.

        Parameters
        ----------
        rng : numpy.random.Generator
            Advanced by what is drawn.
        n_out, n_in : int
            Units of the layer and of the one below, >= 1.

        Returns
        -------
        array of shape (n_out, n_in), float64
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(rng, n_out, n_in)")


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Independent weights of mean 0 and variance ``scale / fan``.

    Glorot, He and LeCun are this with a scale and a fan of their own: the table `INITIALIZERS`.

    Parameters
    ----------
    scale : float, optional
        > 0.
    fan : {"in", "average"}, optional
        "in": n_in. "average": (n_in + n_out) / 2.
    distribution : {"uniform", "normal"}, optional
        Uniform between +-sqrt(3 * scale / fan), or normal, which is not truncated.

    References
    ----------
    LeCun, Bottou, Orr and Müller, "Efficient BackProp", 1998, section 4.6.
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    2010, equation 16.
    He, Zhang, Ren and Sun, "Delving deep into rectifiers", 2015, equation 10.
    """

    scale: float = 1.0
    fan: Literal["in", "average"] = "average"
    distribution: Literal["uniform", "normal"] = "uniform"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_number("scale", self.scale, 0, above=True))
        if self.fan not in ("in", "average"):
            raise ValueError(f'fan must be "in" or "average", got {self.fan!r}')
        if self.distribution not in ("uniform", "normal"):
            raise ValueError(
                f'distribution must be "uniform" or "normal", got {self.distribution!r}'
            )

    def __call__(self, rng: np.random.Generator, n_out: int, n_in: int) -> Weights:
        """Return independent weights of shape (n_out, n_in)."""
        fan = n_in if self.fan == "in" else (n_in + n_out) / 2
        deviation = math.sqrt(self.scale / fan)
        if self.distribution == "normal":
            return rng.normal(0.0, deviation, (n_out, n_in))
        limit = math.sqrt(3) * deviation
        return rng.uniform(-limit, limit, (n_out, n_in))


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """A random orthogonal matrix: its rows, or its columns if it has fewer, stand at right angles.

    Each is of length `gain`. Drawn uniformly among these matrices: the Q of a Gaussian matrix's QR
    decomposition, with the signs that make R's diagonal positive.

    Parameters
    ----------
    gain : float, optional
        > 0.

    References
    ----------
    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", 2014.
    Mezzadri, "How to generate random matrices from the classical compact groups", 2007.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", check_number("gain", self.gain, 0, above=True))

    def __call__(self, rng: np.random.Generator, n_out: int, n_in: int) -> Weights:
        """Return an orthogonal matrix of shape (n_out, n_in), times the gain."""
        tall = rng.standard_normal((max(n_out, n_in), min(n_out, n_in)))
        Q, R = np.linalg.qr(tall)
        Q *= np.where(np.diag(R) < 0, -self.gain, self.gain)
        return np.ascontiguousarray(Q if n_out >= n_in else Q.T)


@dataclass(frozen=True, eq=False)
class Explicit(Initializer):
    """Weights that are given.

    Parameters
    ----------
    values : array-like of shape (n_out, n_in)
        Finite numbers; copied.

    Raises
    ------
    TypeError, ValueError
        If `values` is not a 2-D array of finite real numbers; when called, if the layer has another
        shape.
    """

    values: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _checked(self.values, "explicit weights"))

    def __call__(self, rng: np.random.Generator, n_out: int, n_in: int) -> Weights:
        """Return a copy of the values; nothing is drawn."""
        return _checked(self.values, "explicit weights", (n_out, n_in))


@dataclass(frozen=True)
class Custom(Initializer):
    """Weights that a function returns.

    Parameters
    ----------
    function : callable
        ``function(rng, n_out, n_in)`` returns finite weights of shape (n_out, n_in).
    """

    function: Callable[[np.random.Generator, int, int], Any]

    def __call__(self, rng: np.random.Generator, n_out: int, n_in: int) -> Weights:
        """Return a copy of what the function returns, checked."""
        name = getattr(self.function, "__name__", repr(self.function))
        return _checked(
            self.function(rng, n_out, n_in), f"weights returned by {name}", (n_out, n_in)
        )


INITIALIZERS: dict[str, Initializer] = {
    "glorot_uniform": VarianceScaling(1.0, "average", "uniform"),
    "glorot_normal": VarianceScaling(1.0, "average", "normal"),
    "he_uniform": VarianceScaling(2.0, "in", "uniform"),
    "he_normal": VarianceScaling(2.0, "in", "normal"),
    "lecun_uniform": VarianceScaling(1.0, "in", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "in", "normal"),
    "orthogonal": Orthogonal(),
}

#: Activations that pass about half of their input on; He et al.'s factor of 2 makes up for that.
_RECTIFIERS = frozenset({"relu", "leaky_relu", "elu", "silu", "gelu"})


def get(what: Any, activation: str) -> Initializer:
    """Return the initialiser that is asked for.

    Parameters
    ----------
    what : str, Initializer, array-like, callable or None
        A name in `INITIALIZERS`, an initialiser, W itself, or a function of (rng, n_out, n_in) that
        returns W.
        None or "auto": He-normal for the rectifiers (relu, leaky_relu, elu, silu, gelu),
        Glorot-uniform for every other activation.
    activation : str
        Name of the layer's activation function.

    Raises
    ------
    TypeError, ValueError
        If `what` is none of these.
    """
    if what is None or (isinstance(what, str) and what == "auto"):
        return INITIALIZERS["he_normal" if activation in _RECTIFIERS else "glorot_uniform"]
    if isinstance(what, Initializer):
        return what
    if isinstance(what, str):
        if what in INITIALIZERS:
            return INITIALIZERS[what]
        names = ", ".join(["auto", *INITIALIZERS])
        raise ValueError(f"initializer must be one of {names}, got {what!r}")
    if isinstance(what, type):
        raise TypeError(f"initializer must be an instance, got the class: write {what.__name__}()")
    return Custom(what) if callable(what) else Explicit(what)


def _checked(values: Any, what: str, shape: tuple[int, int] | None = None) -> Weights:
    """Return weights as a new float64 array, or raise and say what is wrong with them."""
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError("they are complex")
        array = np.array(array, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be a 2-D array of real numbers: {error}") from None
    if shape is None and array.ndim != 2:
        raise ValueError(f"{what} must have shape (n_out, n_in), got shape {array.shape}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{what} must have shape (n_out, n_in) = {shape}, got {array.shape}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = (int(index) for index in bad[0])
        raise ValueError(f"{what} must be finite, got {array[row, column]} at [{row}, {column}]")
    return array
