"""Learning-rate schedules: what the learning rate is at each point of training.

A schedule is a frozen description. What changes while it is in use stands in a dict of plain
numbers, its state, which `Schedule.begin` makes and a checkpoint can store.

Time is measured in epochs, counted from 0 in fractions: 0.0 is the first update, 1.5 the middle of
the second epoch. So a schedule means the same thing at any batch size.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

#: Numbers by name that change while a schedule is in use.
State: TypeAlias = dict[str, float]


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> float:
    """Return a number as a float after checking its type and range.

    Parameters
    ----------
    name : str
        What the message calls it.
    value : number
        NumPy's scalars are numbers too; booleans are not.
    low, high : float, optional
        Bounds. The number must be finite in any case.
    above, below : bool, optional
        Whether `low`, respectively `high`, is itself excluded.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is NaN or infinite or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    x = float(value)
    high_enough = x > low if above else x >= low
    low_enough = x < high if below else x <= high
    if math.isfinite(x) and high_enough and low_enough:
        return x
    bounds = [f"{'>' if above else '>='} {low:g}"] if low > -math.inf else []
    bounds += [f"{'<' if below else '<='} {high:g}"] if high < math.inf else []
    wanted = " and ".join(["finite", *bounds])
    raise ValueError(f"{name} must be {wanted}, got {value!r}")


@dataclass(frozen=True)
class Schedule:
    """Base of the schedules: a learning rate that depends on time, or on the loss so far.

    A schedule of one's own is a frozen dataclass with a method `rate`. One that looks at the loss
    has `begin` and `observe` besides.

    Attributes
    ----------
    per_update : bool
        Whether the rate changes within an epoch. If not, it is asked for once per epoch.
    """

    per_update: ClassVar[bool] = False

    def begin(self) -> State:
        """Return the state at the start of training: an empty dict if nothing is remembered."""
        return {}

    def rate(self, epoch: float, state: State) -> float:
        """Return the learning rate of an update.

        Parameters
        ----------
        epoch : float
            Epochs done before this update, >= 0, in fractions.
        state : dict of str to float
            From `begin`. It is not changed.

        Returns
        -------
        float
            >= 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must define rate(epoch, state)")

    def observe(self, state: State, loss: float) -> None:
        """Take note of an epoch's loss.

        Parameters
        ----------
        state : dict of str to float
            From `begin`. Overwritten with what is remembered from now on.
        loss : float
            Validation loss after the epoch, or the training loss if there is no validation set.
        """

    def _check(self, name: str, low: float, high: float = math.inf, **strict: bool) -> None:
        """Check a field and store it as a float."""
        value = check_number(name, getattr(self, name), low, high, **strict)
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate throughout.

    Parameters
    ----------
    learning_rate : float
        > 0.
    """

    learning_rate: float

    def __post_init__(self) -> None:
        self._check("learning_rate", 0, above=True)

    def rate(self, epoch: float, state: State) -> float:
        """Return `learning_rate`."""
        return self.learning_rate


@dataclass(frozen=True)
class Step(Schedule):
    """A learning rate that is multiplied by `factor` after every `every` epochs.

    Parameters
    ----------
    learning_rate : float
        Rate of the first `every` epochs, > 0.
    every : int
        Epochs between two steps, >= 1.
    factor : float, optional
        In 0..1, 0 excluded.
    """

    learning_rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        self._check("learning_rate", 0, above=True)
        self._check("factor", 0, 1, above=True)
        object.__setattr__(self, "every", _count("every", self.every, 1))

    def rate(self, epoch: float, state: State) -> float:
        """Return ``learning_rate * factor ** (epoch // every)``."""
        return self.learning_rate * self.factor ** (math.floor(epoch) // self.every)


@dataclass(frozen=True)
class Exponential(Schedule):
    """A learning rate that is multiplied by `factor` after each epoch.

    Parameters
    ----------
    learning_rate : float
        Rate of the first epoch, > 0.
    factor : float
        In 0..1, 0 excluded.
    """

    learning_rate: float
    factor: float

    def __post_init__(self) -> None:
        self._check("learning_rate", 0, above=True)
        self._check("factor", 0, 1, above=True)

    def rate(self, epoch: float, state: State) -> float:
        """Return ``learning_rate * factor ** floor(epoch)``."""
        return self.learning_rate * self.factor ** math.floor(epoch)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """A learning rate that falls with a power of the number of epochs.

    With ``0.5 < power <= 1`` the rates satisfy Robbins and Monro's conditions for convergence:
    their sum is infinite, the sum of their squares is not.

    Parameters
    ----------
    learning_rate : float
        Rate of the first epoch, > 0.
    power : float, optional
        >= 0.

    References
    ----------
    Robbins and Monro, "A stochastic approximation method", 1951.
    """

    learning_rate: float
    power: float = 0.5

    def __post_init__(self) -> None:
        self._check("learning_rate", 0, above=True)
        self._check("power", 0)

    def rate(self, epoch: float, state: State) -> float:
        """Return ``learning_rate * (1 + floor(epoch)) ** -power``."""
        # A negative power underflows to 0 where dividing by a positive one would overflow.
        return self.learning_rate * math.pow(1 + math.floor(epoch), -self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """A learning rate that rises along a line, if asked to, and falls along half a cosine.

    Parameters
    ----------
    learning_rate : float
        The highest rate, > 0, reached after the warm-up.
    epochs : float
        When `final` is reached, > 0; the rate stays there afterwards.
    warmup : float, optional
        Epochs of rising from 0, in 0..epochs, epochs excluded. 0: none.
    final : float, optional
        The lowest rate, in 0..learning_rate.

    References
    ----------
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.
    Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2 (the warm-up).
    """

    learning_rate: float
    epochs: float
    warmup: float = 0.0
    final: float = 0.0
    per_update: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check("learning_rate", 0, above=True)
        self._check("epochs", 0, above=True)
        self._check("warmup", 0, self.epochs, below=True)
        self._check("final", 0, self.learning_rate)

    def rate(self, epoch: float, state: State) -> float:
        """Return the rate on the line or on the cosine."""
        if epoch < self.warmup:
            return self.learning_rate * epoch / self.warmup
        done = (epoch - self.warmup) / (self.epochs - self.warmup)
        return _anneal(self.learning_rate, self.final, done)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """A learning rate that rises once and falls once, each along half a cosine.

    The same curve as PyTorch's ``OneCycleLR(anneal_strategy="cos")``, which counts updates where
    this counts epochs.

    Parameters
    ----------
    peak : float
        The highest rate, > 0.
    epochs : float
        When `final` is reached, > 0; the rate stays there afterwards.
    start : float or None, optional
        Rate at the start, in 0..peak. None: ``peak / 25``.
    final : float or None, optional
        Rate at the end, in 0..peak. None: ``peak / 1e4``.
    rise : float, optional
        Share of `epochs` in which the rate rises, in 0..1, both excluded.

    References
    ----------
    Smith and Topin, "Super-convergence: very fast training of neural networks using large learning
    rates", 2018.
    """

    peak: float
    epochs: float
    start: float | None = None
    final: float | None = None
    rise: float = 0.3
    per_update: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check("peak", 0, above=True)
        self._check("epochs", 0, above=True)
        self._check("rise", 0, 1, above=True, below=True)
        for name in ("start", "final"):
            if getattr(self, name) is not None:
                self._check(name, 0, self.peak)

    def rate(self, epoch: float, state: State) -> float:
        """Return the rate on the rising or on the falling half of the cycle."""
        start = self.peak / 25 if self.start is None else self.start
        final = self.peak / 1e4 if self.final is None else self.final
        top = self.rise * self.epochs
        if epoch < top:
            return _anneal(start, self.peak, epoch / top)
        return _anneal(self.peak, final, (epoch - top) / (self.epochs - top))


@dataclass(frozen=True)
class OnPlateau(Schedule):
    """A learning rate that falls when the loss has stopped falling.

    After more than `patience` epochs in a row that do not bring the loss below
    ``best * (1 - min_delta)``, the rate is multiplied by `factor`. The same rule as PyTorch's
    ``ReduceLROnPlateau``.

    Parameters
    ----------
    learning_rate : float
        Rate at the start, > 0.
    factor : float, optional
        In 0..1, both excluded.
    patience : int, optional
        Epochs without progress that are put up with, >= 0.
    min_delta : float, optional
        Share of the best loss by which an epoch must fall below it to count as progress, in 0..1,
        1 excluded.
    cooldown : int, optional
        Epochs after each fall that do not count as without progress, >= 0.
    minimum : float, optional
        The rate never falls below it, in 0..learning_rate.
    """

    learning_rate: float
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    cooldown: int = 0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        self._check("learning_rate", 0, above=True)
        self._check("factor", 0, 1, above=True, below=True)
        self._check("min_delta", 0, 1, below=True)
        self._check("minimum", 0, self.learning_rate)
        for name in ("patience", "cooldown"):
            object.__setattr__(self, name, _count(name, getattr(self, name), 0))

    def begin(self) -> State:
        """Return the state before any loss was seen: the rate, the best loss and two counts."""
        rate = self.learning_rate
        return {"learning_rate": rate, "best": math.inf, "bad_epochs": 0, "cooldown": 0}

    def rate(self, epoch: float, state: State) -> float:
        """Return the rate that the losses so far have led to."""
        return state["learning_rate"]

    def observe(self, state: State, loss: float) -> None:
        """Count an epoch without progress, and lower the rate if there were too many."""
        best = state["best"]
        # A loss of the user's own may be negative: "a little below best" is then further from 0.
        wanted = best * (1 - self.min_delta if best > 0 else 1 + self.min_delta)
        if loss < wanted:
            state["best"], state["bad_epochs"] = loss, 0
        else:
            state["bad_epochs"] += 1
        if state["cooldown"] > 0:
            state["cooldown"] -= 1
            state["bad_epochs"] = 0
        if state["bad_epochs"] > self.patience:
            state["learning_rate"] = max(state["learning_rate"] * self.factor, self.minimum)
            state["bad_epochs"], state["cooldown"] = 0, self.cooldown


@dataclass(frozen=True)
class Custom(Schedule):
    """A learning rate given by a function of the epoch.

    Parameters
    ----------
    function : callable
        ``function(epoch)`` with the epoch as an int, counted from 0, returns the rate, >= 0. It may
        be called more than once for an epoch and must then return the same.
    """

    function: Callable[[int], float]

    def __post_init__(self) -> None:
        if not callable(self.function) or isinstance(self.function, type):
            raise TypeError(f"function must be a function of the epoch, got {self.function!r}")

    def rate(self, epoch: float, state: State) -> float:
        """Return what the function returns.

        Raises
        ------
        TypeError, ValueError
            If that is not a finite number >= 0; the message names the epoch.
        """
        number = math.floor(epoch)
        return check_number(f"the learning rate of epoch {number}", self.function(number), 0)


#: Schedules by name. The first field of each is its learning rate.
SCHEDULES: Mapping[str, type[Schedule]] = {
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
    "inverse_scaling": InverseScaling,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "on_plateau": OnPlateau,
}

#: What an optimiser takes as its learning rate.
LearningRate: TypeAlias = float | Schedule | Callable[[int], float]


def get(learning_rate: LearningRate) -> Schedule:
    """Return the schedule that a learning rate stands for.

    Parameters
    ----------
    learning_rate : float, Schedule or callable
        A number > 0 (the rate throughout), a schedule, or a function of the epoch (an int, from 0).

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If it is a number that is not finite or not > 0.
    """
    if isinstance(learning_rate, Schedule):
        return learning_rate
    if isinstance(learning_rate, numbers.Real):
        return Constant(check_number("learning_rate", learning_rate, 0, above=True))
    if callable(learning_rate) and not isinstance(learning_rate, type):
        return Custom(learning_rate)
    raise TypeError(
        "learning_rate must be a number > 0, a schedule such as Step(0.1, every=10), or a function "
        f"of the epoch, got {learning_rate!r}"
    )


def _anneal(start: float, end: float, done: float) -> float:
    """Return the point on half a cosine from start (done = 0) to end (done >= 1)."""
    if done >= 1:
        return end
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def _count(name: str, value: Any, low: int) -> int:
    """Return a whole number >= low as an int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number of epochs, got {value!r}")
    return int(check_number(name, value, low))
