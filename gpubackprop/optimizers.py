"""Optimisers: how a gradient changes the parameters, one class each.

An optimiser is a frozen description: it can be shared, compared, hashed and pickled, and training
leaves it as it was. What is remembered between updates (velocity, moments) stands in *slots*, flat
buffers laid out like the parameters, which belong to the run. One update is one `Expression` over
the whole flat buffer, weights, biases and padding alike; the padding's zeros stay zeros.

In the order in which they act in one update, g being the gradient of the batch's loss:

1. `penalty`: ``g += l2 * w + l1 * sign(w)``, weights only;
2. clipping: if the norm of all of g exceeds `clip_norm`, g is scaled down to it;
3. `decay`: ``w -= learning_rate * weight_decay * w``, weights only;
4. `expression`: the update proper.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

from gpubackprop import schedules
from gpubackprop.expressions import Expression
from gpubackprop.schedules import LearningRate, Schedule, check_number

#: Below it, epsilon would be lost in float32, and an entry without a gradient would be 0 / 0.
_SMALLEST_EPSILON = 1e-30
#: What each penalty adds to the gradient.
_PENALTIES = {"l2": "l2 * w", "l1": "l1 * where(w > 0, 1, where(w < 0, -1, 0))"}
#: What each is for one entry: where that comes from.
_PENALTY_VALUES = {"l2": "0.5 * l2 * w ** 2", "l1": "l1 * fabs(w)"}


@dataclass(frozen=True, repr=False)
class Optimizer:
    """Base of the optimisers, with what all of them can do.

    One of one's own is a frozen dataclass with an `expression`, and with `scalars` if this reads
    more than the learning rate.

    Parameters
    ----------
    learning_rate : float, Schedule or callable
        A number > 0, a schedule, or a function of the epoch (an int, from 0).
    l1, l2 : float, optional
        Factors of the penalties ``l1 * sum(|W|)`` and ``l2 / 2 * sum(W ** 2)``, >= 0. They are not
        part of the loss that is reported.
    weight_decay : float, optional
        Before each update the weights shrink by this share times the learning rate, >= 0. It
        bypasses the gradient, so clipping, momentum and Adam's scaling do not see it.
    clip_norm : float or None, optional
        Largest Euclidean norm of the whole gradient, > 0; a longer one is scaled down to it.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or is out of its range.

    Examples
    --------
    >>> SGD(learning_rate=0.1, momentum=0.9)
    SGD(learning_rate=0.1, momentum=0.9)

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019 (`weight_decay`).
    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013
    (`clip_norm`).
    """

    learning_rate: LearningRate
    _: KW_ONLY
    l1: float = 0.0
    l2: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None

    #: Whether it wants the gradient of all samples in every update: one batch an epoch.
    batch_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        constant = schedules.get(self.learning_rate)
        if isinstance(constant, schedules.Constant) and constant is not self.learning_rate:
            self._set("learning_rate", constant.learning_rate)
        for name in ("l1", "l2", "weight_decay"):
            self._check(name, 0)
        if self.clip_norm is not None:
            self._check("clip_norm", 0, above=True)

    @property
    def expression(self) -> Expression:
        """The update: reads g, scalars and constants, and writes w and the slots in place."""
        raise NotImplementedError(f"{type(self).__name__} must define expression")

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the buffers that live from update to update."""
        return self.expression.outputs[1:]

    @property
    def slot_start(self) -> dict[str, float]:
        """What each slot is filled with before the first update."""
        return dict.fromkeys(self.slots, 0.0)

    @property
    def scalar_names(self) -> tuple[str, ...]:
        """Names of the numbers that `expression` wants anew at each update."""
        return self.expression.scalars

    def scalars(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """Return the numbers that `expression` wants, one for each of `scalar_names`.

        Parameters
        ----------
        step : int
            Number of this update, counted from 1 since the slots were filled.
        learning_rate : float
            Its learning rate, >= 0.
        """
        return (learning_rate,)

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule."""
        return schedules.get(self.learning_rate)

    @cached_property
    def plain(self) -> bool:
        """Whether an update is ``w - learning_rate * g`` and nothing else, so that it can be part
        of the product that computes g.
        """
        extras = self.penalty, self.clip_norm, self.weight_decay or None
        same = self.expression.key == SGD().expression.key
        return same and type(self).scalars is Optimizer.scalars and extras == (None, None, None)

    @cached_property
    def penalty(self) -> Expression | None:
        """What l1 and l2 add to g, to be run on the weights' part alone; None if both are 0.

        Its scalars are those of "l2" and "l1" that are above 0: see `penalty_factors`.
        """
        names = tuple(name for name in _PENALTIES if getattr(self, name) > 0)
        if not names:
            return None
        formula = " + ".join(["g", *(_PENALTIES[name] for name in names)])
        return Expression("penalty", ("w",), {"g": formula}, ("g",), names)

    @cached_property
    def penalty_value(self) -> Expression | None:
        """The penalties themselves, ``l2 / 2 * w ** 2 + l1 * |w|``; scalars as in `penalty`."""
        if self.penalty is None:
            return None
        formula = " + ".join(_PENALTY_VALUES[name] for name in self.penalty.scalars)
        return Expression("penalty_value", ("w",), {"out": formula}, scalars=self.penalty.scalars)

    def penalty_factors(self, share: float = 1.0) -> tuple[float, ...]:
        """Return the scalars of `penalty`: its factors, times a share."""
        names = () if self.penalty is None else self.penalty.scalars
        return tuple(share * getattr(self, name) for name in names)

    @cached_property
    def decay(self) -> Expression:
        """Decoupled weight decay, ``w - rate * w``, with rate = learning_rate * weight_decay."""
        return Expression("decay", (), {"w": "w - rate * w"}, ("w",), ("rate",))

    @cached_property
    def masked_decay(self) -> Expression:
        """The same where an array "trainable" is 1; where it is 0, w stays."""
        formula = {"w": "w - trainable * rate * w"}
        return Expression("masked_decay", ("trainable",), formula, ("w",), ("rate",))

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name == "learning_rate" or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _check(self, name: str, low: float, high: float = math.inf, **strict: bool) -> None:
        """Check a field and store it as a float."""
        self._set(name, check_number(name, getattr(self, name), low, high, **strict))

    def _set(self, name: str, value: Any) -> None:
        """Store a field in its canonical form, while the instance is being made."""
        object.__setattr__(self, name, value)


@dataclass(frozen=True, repr=False)
class SGD(Optimizer):
    """Gradient descent, with momentum if asked for.

    ``velocity = momentum * velocity - learning_rate * g``, ``w += velocity``. With Nesterov's
    momentum ``w += momentum * velocity - learning_rate * g``, where velocity is the new one.
    Without momentum ``w -= learning_rate * g``, and there is no slot.

    Parameters
    ----------
    learning_rate : float, Schedule or callable, optional
    momentum : float, optional
        In 0..1, 1 excluded.
    nesterov : bool, optional
        Needs ``momentum > 0``.
    l1, l2, weight_decay, clip_norm : optional
        See `Optimizer`.

    References
    ----------
    Rumelhart, Hinton and Williams, "Learning internal representations by error propagation", 1986.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep
    learning", 2013 (Nesterov's momentum; this form, with the gradient at w, is scikit-learn's).
    """

    learning_rate: LearningRate = 0.01
    _: KW_ONLY
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("momentum", 0, 1, below=True)
        if self.nesterov not in (True, False):
            raise TypeError(f"nesterov must be True or False, got {self.nesterov!r}")
        self._set("nesterov", bool(self.nesterov))
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs momentum > 0, such as 0.9, got momentum=0")

    @cached_property
    def expression(self) -> Expression:
        """``w - learning_rate * g``, or the same through the slot "velocity"."""
        scalars = ("learning_rate",)
        if self.momentum == 0:
            return Expression("sgd_step", ("g",), {"w": "w - learning_rate * g"}, ("w",), scalars)
        step = "momentum * velocity - learning_rate * g"
        return Expression(
            "nesterov_step" if self.nesterov else "momentum_step",
            ("g",),
            {"velocity": step, "w": f"w + ({step})" if self.nesterov else "w + velocity"},
            ("w", "velocity"),
            scalars,
            {"momentum": self.momentum},
        )


@dataclass(frozen=True, repr=False)
class RMSprop(Optimizer):
    """Gradient descent with each entry divided by the root of its mean square.

    ``v = rho * v + (1 - rho) * g ** 2``, ``w -= learning_rate * g / (sqrt(v) + epsilon)``.

    Parameters
    ----------
    learning_rate : float, Schedule or callable, optional
    rho : float, optional
        How much of the mean square is kept, in 0..1, 1 excluded.
    epsilon : float, optional
        >= 1e-30.
    l1, l2, weight_decay, clip_norm : optional
        See `Optimizer`.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: rmsprop", Neural Networks for Machine Learning, 2012.
    """

    learning_rate: LearningRate = 0.001
    _: KW_ONLY
    rho: float = 0.9
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("rho", 0, 1, below=True)
        self._check("epsilon", _SMALLEST_EPSILON)

    @cached_property
    def expression(self) -> Expression:
        """The update through the slot "v"."""
        constants = {"rho": self.rho, "epsilon": self.epsilon}
        statements = {
            "v": "rho * v + (1 - rho) * g ** 2",
            "w": "w - learning_rate * g / (sqrt(v) + epsilon)",
        }
        scalars = ("learning_rate",)
        return Expression("rmsprop_step", ("g",), statements, ("w", "v"), scalars, constants)


@dataclass(frozen=True, repr=False)
class Adam(Optimizer):
    """Adam: momentum divided by the root of the mean square, both corrected for their start at 0.

    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g ** 2``. At step t, with
    ``c1 = 1 - beta1 ** t`` and ``c2 = 1 - beta2 ** t``, w falls by

    - ``learning_rate * (m / c1) / (sqrt(v / c2) + epsilon)``: epsilon stands at the corrected v
      (algorithm 1 of the paper, PyTorch);
    - ``learning_rate * sqrt(c2) / c1 * m / (sqrt(v) + epsilon)``: it stands at the uncorrected v,
      where it weighs more in the first steps (the paper's "epsilon hat", scikit-learn, Keras).

    Parameters
    ----------
    learning_rate : float, Schedule or callable, optional
    beta1, beta2 : float, optional
        How much of m and of v is kept, in 0..1, 1 excluded.
    epsilon : float, optional
        >= 1e-30.
    epsilon_at : {"corrected", "uncorrected"}, optional
        The first or the second form.
    l1, l2, weight_decay, clip_norm : optional
        See `Optimizer`.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1 and section 2.
    """

    learning_rate: LearningRate = 0.001
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_at: Literal["corrected", "uncorrected"] = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta1", 0, 1, below=True)
        self._check("beta2", 0, 1, below=True)
        self._check("epsilon", _SMALLEST_EPSILON)
        if self.epsilon_at not in ("corrected", "uncorrected"):
            raise ValueError(
                f'epsilon_at must be "corrected" or "uncorrected", got {self.epsilon_at!r}'
            )

    @cached_property
    def expression(self) -> Expression:
        """The update through the slots "m" and "v"; `scalars` carries the corrections."""
        constants = {"beta1": self.beta1, "beta2": self.beta2}
        statements = {
            "m": "beta1 * m + (1 - beta1) * g",
            "v": "beta2 * v + (1 - beta2) * g ** 2",
            "w": "w - rate * m / (sqrt(v) + epsilon)",
        }
        scalars = ("rate", "epsilon")
        return Expression("adam_step", ("g",), statements, ("w", "m", "v"), scalars, constants)

    def scalars(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """Return the corrected learning rate and epsilon as it stands beside sqrt(v)."""
        c1, c2 = 1 - self.beta1**step, 1 - self.beta2**step
        # sqrt(v / c2) + epsilon = (sqrt(v) + epsilon * sqrt(c2)) / sqrt(c2)
        moved = math.sqrt(c2) if self.epsilon_at == "corrected" else 1.0
        return learning_rate * math.sqrt(c2) / c1, self.epsilon * moved


@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """Adam with weight decay that bypasses the moments: `Adam`, but ``weight_decay=0.01``.

    Parameters
    ----------
    learning_rate : float, Schedule or callable, optional
    beta1, beta2, epsilon, epsilon_at : optional
        See `Adam`.
    weight_decay, l1, l2, clip_norm : optional
        See `Optimizer`.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    """

    weight_decay: float = 0.01


@dataclass(frozen=True, repr=False)
class Rprop(Optimizer):
    """Resilient backpropagation (iRprop-): a step for each entry, from the gradient's signs alone.

    Where the sign of g is that of the update before, the entry's step grows; where it has changed,
    the step shrinks and the entry rests for one update. For batch mode only: the signs of
    mini-batches are noise.

    Parameters
    ----------
    learning_rate : float, optional
        First step of every entry, in step_min..step_max. A number: the steps adapt themselves.
    increase, decrease : float, optional
        Factors of the step, increase > 1 and 0 < decrease < 1.
    step_min, step_max : float, optional
        Bounds of a step, 0 < step_min <= step_max.
    l1, l2, weight_decay, clip_norm : optional
        See `Optimizer`.

    References
    ----------
    Igel and Hüsken, "Improving the Rprop learning algorithm", 2000, section 2.
    """

    learning_rate: LearningRate = 0.01
    _: KW_ONLY
    increase: float = 1.2
    decrease: float = 0.5
    step_min: float = 1e-6
    step_max: float = 50.0

    batch_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("increase", 1, above=True)
        self._check("decrease", 0, 1, above=True, below=True)
        self._check("step_max", 0, above=True)
        self._check("step_min", 0, self.step_max, above=True)
        self._check("learning_rate", self.step_min, self.step_max)

    @cached_property
    def expression(self) -> Expression:
        """The update through the slots "previous", the last gradient's sign, and "step"."""
        statements = {
            # A NaN stays one, and so reaches w, where it is noticed.
            "sign": "where(g > 0, 1, where(g < 0, -1, g))",
            # Of signs, because the product of two small gradients would underflow.
            "agreement": "sign * previous",
            "step": (
                "where(agreement > 0, fmin(increase * step, step_max), "
                "where(agreement < 0, fmax(decrease * step, step_min), step))"
            ),
            "previous": "where(agreement < 0, 0, sign)",
            "w": "w - previous * step",
        }
        names = ("increase", "decrease", "step_min", "step_max")
        constants = {name: getattr(self, name) for name in names}
        outputs = ("w", "previous", "step")
        return Expression("rprop_step", ("g",), statements, outputs, constants=constants)

    @property
    def slot_start(self) -> dict[str, float]:
        """No sign yet, and every step at the learning rate."""
        return {"previous": 0.0, "step": check_number("learning_rate", self.learning_rate)}

    def scalars(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """Return nothing: the steps are in a slot."""
        return ()


#: Optimisers by name, with which they are made with their defaults.
OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "rprop": Rprop,
}


def get(optimizer: "str | Optimizer") -> Optimizer:
    """Return an optimiser.

    Parameters
    ----------
    optimizer : str or Optimizer
        A name in `OPTIMIZERS`, or an optimiser, which is returned as it is.

    Raises
    ------
    TypeError, ValueError
        If it is neither; the message lists the names.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    names = ", ".join(OPTIMIZERS)
    if isinstance(optimizer, str):
        if optimizer in OPTIMIZERS:
            return OPTIMIZERS[optimizer]()  # type: ignore[call-arg]
        raise ValueError(f"optimizer must be one of {names}, got {optimizer!r}")
    raise TypeError(
        f"optimizer must be an optimiser such as SGD(learning_rate=0.1), or one of {names}, "
        f"got {optimizer!r}"
    )
