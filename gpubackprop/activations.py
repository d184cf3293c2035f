"""Activation functions: the table, one entry per function."""

import math
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from gpubackprop.expressions import Expression, parse


class Activation:
    """An activation function ``a = f(z)`` and its derivative, given as formulas.

    Parameters
    ----------
    name : str
        A Python identifier; kernels carry it (`sigmoid_delta`).
    f : str
        Formula of a in terms of z, in the language of `gpubackprop.expressions`.
    df : str
        Formula of f'(z) in terms of either a or z. In terms of a, z need not be kept.
    **parameters : float
        Named numbers in the formulas, such as ``slope=0.01``.

    Raises
    ------
    ValueError
        If a formula is malformed, reads another name, or `df` reads both a and z.

    Examples
    --------
    >>> softsign = Activation("softsign", f="z / (1 + fabs(z))", df="(1 - fabs(a)) ** 2")
    >>> softsign.reads
    'a'
    """

    #: Whether each output depends on one input only. Softmax alone does not.
    elementwise = True

    def __init__(self, name: str, f: str, df: str, **parameters: float) -> None:
        self.name, self.f, self.df = name, f, df
        self.parameters: Mapping[str, float] = MappingProxyType(
            {key: _finite(name, key, value) for key, value in parameters.items()}
        )
        names = parse(df).names() & {"a", "z"}
        if len(names) > 1:
            raise ValueError(
                f"df of activation {name!r} reads both a and z; write it in terms of one"
            )
        #: "a" or "z": what df reads, and so what a training step keeps.
        self.reads = "z" if "z" in names else "a"
        #: Whether f' is 1 everywhere, so that a delta passes unchanged.
        self.linear = df.strip() == "1"
        _ = self.forward, self.derivative, self.delta, self.bias  # checks the formulas

    def __call__(self, **parameters: float) -> "Activation":
        """Return the same activation with other parameters, e.g. ``LEAKY_RELU(slope=0.2)``."""
        unknown = set(parameters) - set(self.parameters)
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise ValueError(
                f"activation {self.name!r} has no parameter {min(unknown)!r}; it has {known}"
            )
        return type(self)(self.name, self.f, self.df, **{**self.parameters, **parameters})

    def _expression(
        self, suffix: str, arguments: tuple[str, ...], statements: dict[str, str]
    ) -> Expression:
        return Expression(self.name + suffix, arguments, statements, constants=self.parameters)

    @cached_property
    def forward(self) -> Expression:
        """``out = f(z)`` in one pass, called with (z, out)."""
        return self._expression("_forward", ("z",), {"out": self.f})

    @cached_property
    def bias(self) -> Expression:
        """``out = f(x + b)`` in one pass, called with (x, b, out)."""
        statements = {"z": "x + b", "out": self.f}
        return self._expression("_bias", ("x", "b"), statements)

    @cached_property
    def bias_keeping_z(self) -> Expression:
        """``z = x + b``, ``out = f(z)`` in one pass, called with (x, b, z, out)."""
        return Expression(
            self.name + "_bias_z",
            ("x", "b"),
            {"z": "x + b", "out": self.f},
            outputs=("z", "out"),
            constants=self.parameters,
        )

    @cached_property
    def derivative(self) -> Expression:
        """``out = f'(z)``, called with (a or z, out): see `reads`."""
        return self._expression("_derivative", (self.reads,), {"out": self.df})

    @cached_property
    def delta(self) -> Expression:
        """``out = delta * f'(z)`` in one pass, called with (delta, a or z, out): see `reads`."""
        return self._expression("_delta", ("delta", self.reads), {"out": f"delta * ({self.df})"})

    def _identity(self) -> tuple[Any, ...]:
        return self.elementwise, self.name, self.f, self.df, tuple(self.parameters.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Activation) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.name, self.f, self.df, dict(self.parameters))

    def __repr__(self) -> str:
        given = "".join(f", {key}={value!r}" for key, value in self.parameters.items())
        return f"Activation({self.name!r}, f={self.f!r}, df={self.df!r}{given})"


class _SignKeeping(Activation):
    """One whose df tells the branch from the sign of a, so that a must have the sign of z."""

    def __init__(self, name: str, f: str, df: str, **parameters: float) -> None:
        super().__init__(name, f, df, **parameters)
        for key, value in self.parameters.items():
            if value <= 0:
                raise ValueError(f"parameter {key} of {name!r} must be > 0, got {value!r}")


class _Softmax(Activation):
    """Softmax over each row, ``a[k] = exp(z[k]) / sum(exp(z))``: for the output layer only."""

    elementwise = False


def _finite(owner: str, key: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"parameter {key} of {owner!r} must be a finite number, got {value!r}")
    return float(value)


def _rebuild(
    cls: type[Activation], name: str, f: str, df: str, parameters: dict[str, float]
) -> Activation:
    return cls(name, f, df, **parameters)


# Each where() is written so that NaN takes the branch that keeps it: a NaN must reach the loss.
IDENTITY = Activation("identity", f="z", df="1")
SIGMOID = Activation("sigmoid", f="1 / (1 + exp(-z))", df="a * (1 - a)")
TANH = Activation("tanh", f="tanh(z)", df="1 - a * a")
RELU = Activation("relu", f="where(z < 0, 0, z)", df="where(a <= 0, 0, 1)")
LEAKY_RELU = _SignKeeping(
    "leaky_relu", f="where(z < 0, slope * z, z)", df="where(a < 0, slope, 1)", slope=0.01
)
ELU = _SignKeeping(
    "elu", f="where(z < 0, alpha * expm1(z), z)", df="where(a < 0, a + alpha, 1)", alpha=1.0
)
# f' = sigmoid(z) = 1 - exp(-a), by expm1 so that small values keep their digits.
SOFTPLUS = Activation("softplus", f="fmax(z, 0) + log1p(exp(-fabs(z)))", df="-expm1(-a)")
SILU = Activation(
    "silu",
    f="z / (1 + exp(-z))",
    df="1 / (1 + exp(-z)) * (1 + z * (1 - 1 / (1 + exp(-z))))",
)
# Hendrycks and Gimpel, "Gaussian error linear units", 2016: z * Phi(z). The numbers are sqrt(1/2)
# and 1 / sqrt(2 pi).
GELU = Activation(
    "gelu",
    f="0.5 * z * (1 + erf(z * 0.7071067811865476))",
    df="0.5 * (1 + erf(z * 0.7071067811865476)) + z * 0.3989422804014327 * exp(-0.5 * z * z)",
)
EXP = Activation("exp", f="exp(z)", df="a")
# The formulas stand for one row: f after the row's maximum was subtracted and before the division
# by the row's sum, df as the diagonal of the Jacobian. Backends compute whole rows (`softmax`,
# `softmax_delta`).
SOFTMAX = _Softmax("softmax", f="exp(z)", df="a * (1 - a)")

#: The activations by name.
ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            IDENTITY, SIGMOID, TANH, RELU, LEAKY_RELU, ELU, SOFTPLUS, SILU, GELU, EXP, SOFTMAX,
        )
    }
)  # fmt: skip


def get(activation: str | Activation, argument: str = "activation") -> Activation:
    """Return an activation by its name, or the one that is given.

    Parameters
    ----------
    activation : str or Activation
    argument : str, optional
        Name of the caller's argument, for the error.

    Raises
    ------
    ValueError
        If the name is not in the table.
    TypeError
        If it is neither a name nor an `Activation`.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"{argument} must be a name or an Activation, got {activation!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{argument} must be one of {', '.join(ACTIVATIONS)} or an Activation, "
            f"got {activation!r}"
        )
    return ACTIVATIONS[activation]
