"""Losses: the table, one entry per loss, and which output activation each goes with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from gpubackprop.activations import SOFTMAX, Activation, _finite
from gpubackprop.expressions import Expression, parse


class Loss:
    """A loss of one output ``o`` against its target ``y``; a sample's is the sum over its outputs.

    Parameters
    ----------
    name : str
        A Python identifier.
    f : str
        Formula of the loss in terms of o and y.
    df : str
        Formula of its derivative dloss/do in terms of o and y.
    outputs : tuple of str, optional
        Names of the output activations it goes with; None means every elementwise one.
    matched : mapping of str to str, optional
        Formula of dloss/dz in terms of o, z and y by the name of an output activation for which it
        is simpler or safer than ``df * f'``. One for softmax stands for the whole row's derivative.
    from_z : mapping of str to str, optional
        Formula of the loss in terms of z, o and y by the name of an output activation, where one in
        terms of o alone would take the logarithm of 0.
    targets : {"any", "unit", "counts", "classes"}, optional
        What targets may be: any numbers, numbers in 0..1, numbers >= 0, class numbers or rows of
        probabilities.
    **parameters : float
        Named numbers in the formulas, such as ``limit=1.0``.

    Examples
    --------
    >>> without_half = Loss("squared_without_half", f="(o - y) ** 2", df="2 * (o - y)")
    """

    def __init__(
        self,
        name: str,
        f: str,
        df: str,
        *,
        outputs: tuple[str, ...] | None = None,
        matched: Mapping[str, str] | None = None,
        from_z: Mapping[str, str] | None = None,
        targets: str = "any",
        **parameters: float,
    ) -> None:
        if targets not in ("any", "unit", "counts", "classes"):
            raise ValueError(
                f"targets of loss {name!r} must be any, unit, counts or classes, got {targets!r}"
            )
        self.name, self.f, self.df, self.outputs, self.targets = name, f, df, outputs, targets
        self.matched = MappingProxyType(dict(matched or {}))
        self.from_z = MappingProxyType(dict(from_z or {}))
        self.parameters: Mapping[str, float] = MappingProxyType(
            {key: _finite(name, key, value) for key, value in parameters.items()}
        )
        for kind, formulas in (("loss", (f, *self.from_z.values())),
                               ("derivative", (df, *self.matched.values()))):  # fmt: skip
            for formula in formulas:  # checks each, whatever output it will be joined to
                _expression(f"{name}_{kind}", {"out": formula}, self.parameters, ("scale",))

    def __call__(self, **parameters: float) -> "Loss":
        """Return the same loss with other parameters, e.g. ``HUBER(limit=2.0)``."""
        unknown = set(parameters) - set(self.parameters)
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise ValueError(
                f"loss {self.name!r} has no parameter {min(unknown)!r}; it has {known}"
            )
        return rebuild({**self.state(), "parameters": {**self.parameters, **parameters}})

    def state(self) -> dict[str, Any]:
        """Return what `rebuild` makes the same loss of: text and numbers."""
        return {
            "name": self.name, "f": self.f, "df": self.df,
            "outputs": self.outputs, "targets": self.targets,
            "matched": dict(self.matched), "from_z": dict(self.from_z),
            "parameters": dict(self.parameters),
        }  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and self.state() == other.state()

    def __hash__(self) -> int:
        return hash((self.name, self.f, self.df, tuple(self.parameters.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (self.state(),)

    def __repr__(self) -> str:
        given = "".join(f", {key}={value!r}" for key, value in self.parameters.items())
        return f"Loss({self.name!r}, f={self.f!r}, df={self.df!r}{given})"


def rebuild(state: dict[str, Any]) -> Loss:
    """Make a loss of its `Loss.state`."""
    outputs = state["outputs"]
    fixed = {key: value for key, value in state.items() if key not in ("parameters", "outputs")}
    outputs = None if outputs is None else tuple(outputs)
    return Loss(**fixed, outputs=outputs, **state["parameters"])


def _expression(
    name: str,
    statements: Mapping[str, str],
    constants: Mapping[str, float],
    scalars: tuple[str, ...] = (),
) -> Expression:
    return Expression(name, ("o", "z", "y"), statements, scalars=scalars, constants=constants)


@dataclass(frozen=True)
class Pair:
    """What the output layer computes: a loss joined to the output activation.

    Attributes
    ----------
    loss : Expression or None
        Loss of each output, called with (o, z, y, out); None where backends compute whole rows
        (softmax with cross_entropy).
    delta : Expression or None
        ``out = scale * dloss/dz``, called with (o, z, y, scale, out); None where backends compute
        whole rows (softmax with squared).
    reads_z : bool
        Whether one of the two reads z. If not, anything of the right shape may be passed for it.
    """

    loss: Expression | None
    delta: Expression | None
    reads_z: bool


@lru_cache(maxsize=256)
def pair(activation: Activation, loss: Loss) -> Pair:
    """Join a loss to the output activation: formulas of the loss and of the output delta.

    Where the loss has a simpler formula of dloss/dz for this activation that one is used, else
    ``dloss/do * f'(z)``.

    Raises
    ------
    ValueError
        If the two give one parameter name two values.
    """
    clash = set(loss.parameters) & set(activation.parameters)
    if clash:
        raise ValueError(
            f"loss {loss.name!r} and activation {activation.name!r} both have a parameter "
            f"{min(clash)!r}; rename one"
        )
    name = f"{activation.name}_{loss.name}"
    constants = {**loss.parameters, **activation.parameters}
    value = delta = None
    if not (activation == SOFTMAX and loss == CROSS_ENTROPY):
        formula = loss.from_z.get(activation.name, loss.f)
        value = _expression(f"{name}_loss", {"out": formula}, constants)
    if activation.name in loss.matched:
        statements = {"out": f"scale * ({loss.matched[activation.name]})"}
    else:
        statements = {"out": f"scale * ({loss.df}) * ({activation.df})"}
        if "a" in parse(activation.df).names():
            statements = {"a": "o", **statements}
    if activation.elementwise or activation.name in loss.matched:
        delta = _expression(f"{name}_delta", statements, constants, ("scale",))
    formulas = [node for part in (value, delta) if part for _, node in part.folded.statements]
    return Pair(value, delta, any("z" in node.names() for node in formulas))


# where() instead of fabs and fmax, so that `gradient_check` sees the kinks; NaN takes the branch
# that keeps it.
SQUARED = Loss(
    "squared",
    f="0.5 * (y - o) ** 2",
    df="o - y",
    matched={"identity": "o - y"},
)
LOG_LOSS = Loss(
    "log_loss",
    f="-(y * log(o) + (1 - y) * log(1 - o))",
    df="(o - y) / (o * (1 - o))",
    outputs=("sigmoid",),
    matched={"sigmoid": "o - y"},
    from_z={"sigmoid": "fmax(z, 0) - z * y + log1p(exp(-fabs(z)))"},
    targets="unit",
)
# With softmax, its only partner, backends compute whole rows from z (log-sum-exp).
CROSS_ENTROPY = Loss(
    "cross_entropy",
    f="-y * log(o)",
    df="-y / o",
    outputs=("softmax",),
    matched={"softmax": "o - y"},
    targets="classes",
)
# o - y log o, with the constant y log y - y that makes a perfect prediction cost 0: half the
# Poisson deviance.
POISSON = Loss(
    "poisson",
    f="o - y + where(y > 0, y * log(y / o), 0)",
    df="1 - y / o",
    outputs=("exp", "softplus"),
    # With softplus: sigmoid(z) - y * sigmoid(z) / o, where sigmoid(z) = 1 - exp(-o), and the
    # quotient is 1 at o = 0.
    matched={"exp": "o - y", "softplus": "-expm1(-o) - y * where(o > 0, -expm1(-o) / o, 1)"},
    # log(softplus(z)) is z to the last digit below -40, where o itself may be 0.
    from_z={
        "exp": "o - y + where(y > 0, y * (log(y) - z), 0)",
        "softplus": "o - y + where(y > 0, y * (log(y) - where(z < -40, z, log(o))), 0)",
    },
    targets="counts",
)
ABSOLUTE = Loss(
    "absolute",
    f="where(o < y, y - o, o - y)",
    df="where(o < y, -1, where(o > y, 1, 0))",
)
HUBER = Loss(
    "huber",
    f="where(fabs(o - y) <= limit, 0.5 * (o - y) ** 2, limit * (fabs(o - y) - 0.5 * limit))",
    df="where(o - y > limit, limit, where(o - y < -limit, -limit, o - y))",
    limit=1.0,
)
QUANTILE = Loss(
    "quantile",
    f="where(o < y, q * (y - o), (1 - q) * (o - y))",
    df="where(o < y, -q, where(o > y, 1 - q, 0))",
    q=0.5,
)

#: The losses by name.
LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        entry.name: entry
        for entry in (SQUARED, LOG_LOSS, CROSS_ENTROPY, POISSON, ABSOLUTE, HUBER, QUANTILE)
    }
)


def get(loss: str | Loss, argument: str = "loss") -> Loss:
    """Return a loss by its name, or the one that is given.

    Raises
    ------
    ValueError
        If the name is not in the table.
    TypeError
        If it is neither a name nor a `Loss`.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"{argument} must be a name or a Loss, got {loss!r}")
    if loss not in LOSSES:
        raise ValueError(f"{argument} must be one of {', '.join(LOSSES)} or a Loss, got {loss!r}")
    return LOSSES[loss]


def check_pair(activation: Activation, loss: Loss) -> None:
    """Refuse an output activation and a loss that do not go together.

    Raises
    ------
    ValueError
        With the reason, and what would go together.
    """
    # A matched formula stands for the whole row; squared has an operation of its own.
    if activation == SOFTMAX and loss != SQUARED and "softmax" not in loss.matched:
        raise ValueError(
            f"loss {loss.name!r} does not go with output 'softmax', whose outputs depend on each "
            "other; softmax goes with cross_entropy and squared"
        )
    if loss.outputs is not None and activation.name not in loss.outputs:
        wanted = " or ".join(repr(name) for name in loss.outputs)
        raise ValueError(
            f"loss {loss.name!r} needs output {wanted}, got {activation.name!r}: "
            "its logarithm needs outputs of that range"
        )


#: The loss that an output activation is given when the user names none; squared for every other
#: one.
NATURAL_LOSS: Mapping[str, Loss] = MappingProxyType({"sigmoid": LOG_LOSS, "softmax": CROSS_ENTROPY})
