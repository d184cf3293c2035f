"""Learning-rate schedules against values worked out by hand, and PyTorch's documented formulas."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gpubackprop import schedules
from gpubackprop.schedules import (
    Constant,
    Cosine,
    Custom,
    Exponential,
    InverseScaling,
    OneCycle,
    OnPlateau,
    Schedule,
    Step,
)

EVERY = [
    Constant(0.1),
    Step(0.1, every=2),
    Exponential(0.1, 0.9),
    InverseScaling(0.1),
    Cosine(0.1, epochs=10, warmup=2),
    OneCycle(0.1, epochs=10),
    OnPlateau(0.1),
]


def rates(schedule, epochs):
    state = schedule.begin()
    return [schedule.rate(epoch, state) for epoch in epochs]


def test_constant():
    assert rates(Constant(0.1), [0, 0.5, 1e6]) == [0.1] * 3


def test_step():
    got = rates(Step(0.8, every=2, factor=0.5), [0, 1, 1.99, 2, 3.5, 4, 6])
    assert_allclose(got, [0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.1], 1e-15)


def test_exponential():
    got = rates(Exponential(0.8, 0.5), [0, 0.99, 1, 2.5, 5000])
    assert_allclose(got, [0.8, 0.8, 0.4, 0.2, 0.0], 1e-15)


def test_inverse_scaling():
    got = rates(InverseScaling(0.6), [0, 0.5, 3, 8.9])
    assert_allclose(got, [0.6, 0.6, 0.3, 0.2], 1e-15)
    assert_allclose(rates(InverseScaling(0.6, power=1), [2]), [0.2], 1e-15)
    assert rates(InverseScaling(0.6, power=1e6), [5]) == [0.0]


def test_cosine():
    got = rates(Cosine(1.0, epochs=12, final=0.2), [0, 3, 4, 6, 8, 12, 20])
    root = math.sqrt(0.5)
    assert_allclose(got, [1, 0.6 + 0.4 * root, 0.8, 0.6, 0.4, 0.2, 0.2], 1e-14)


def test_cosine_with_warm_up():
    got = rates(Cosine(1.0, epochs=12, warmup=4), [0, 1, 3.5, 4, 8, 12, 13])
    assert_allclose(got, [0, 0.25, 0.875, 1, 0.5, 0, 0], atol=1e-15)


def test_one_cycle():
    got = rates(OneCycle(1.0, epochs=10, rise=0.4), [0, 2, 4, 7, 10, 11])
    assert_allclose(got, [0.04, 0.52, 1, 0.50005, 1e-4, 1e-4], 1e-13)
    got = rates(OneCycle(1.0, epochs=10, start=0.5, final=0.0), [0, 1.5, 3, 6.5, 10])
    assert_allclose(got, [0.5, 0.75, 1, 0.5, 0], atol=1e-15)


def test_one_cycle_is_the_curve_of_pytorch():
    """PyTorch ends the cycle at the last update: 10 of them are the times 0, 1, ..., 9 of 9."""

    def anneal(start, end, share):
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    total, peak, share = 10, 0.3, 0.4
    top = share * total - 1
    low, lowest = peak / 25, peak / 25 / 1e4
    theirs = [
        anneal(low, peak, i / top) if i <= top else anneal(peak, lowest, (i - top) / (9 - top))
        for i in range(total)
    ]
    ours = OneCycle(peak, epochs=9, final=lowest, rise=top / 9)
    assert_allclose(rates(ours, range(total)), theirs, 1e-12)


def watch(schedule, losses):
    """Return the learning rate after each loss."""
    state = schedule.begin()
    seen = []
    for epoch, loss in enumerate(losses):
        schedule.observe(state, loss)
        seen.append(schedule.rate(epoch + 1, state))
    return seen


def test_plateau_waits_for_more_than_patience_epochs():
    schedule = OnPlateau(1.0, factor=0.5, patience=2)
    losses = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert watch(schedule, losses) == [1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_plateau_wants_a_relative_fall():
    schedule = OnPlateau(1.0, factor=0.5, patience=0, min_delta=0.1)
    assert watch(schedule, [100.0, 91.0, 89.0, 80.5, 80.0]) == [1, 0.5, 0.5, 0.25, 0.25]


def test_plateau_below_zero():
    schedule = OnPlateau(1.0, factor=0.5, patience=0, min_delta=0.1)
    assert watch(schedule, [-100.0, -99.0, -105.0, -111.0]) == [1, 0.5, 0.25, 0.25]


def test_plateau_cools_down_and_has_a_minimum():
    schedule = OnPlateau(1.0, factor=0.5, patience=0, cooldown=2, minimum=0.2)
    got = watch(schedule, [1.0] * 12)
    assert got == [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2, 0.2]


def test_plateau_takes_nan_for_no_progress():
    assert watch(OnPlateau(1.0, factor=0.5, patience=0), [math.nan, 1.0]) == [0.5, 0.5]


def test_plateau_state_holds_all_that_changes():
    schedule = OnPlateau(1.0, factor=0.5, patience=1)
    losses = [2.0, 2.0, 2.0, 1.5, 1.5, 1.5, 1.5]
    whole = watch(schedule, losses)
    state = schedule.begin()
    for loss in losses[:4]:
        schedule.observe(state, loss)
    state = {name: float(value) for name, value in state.items()}  # through a file
    for loss in losses[4:]:
        schedule.observe(state, loss)
    assert schedule.rate(7, state) == whole[-1]


def test_function_of_the_epoch():
    seen = []

    def function(epoch):
        seen.append(epoch)
        return np.float32(0.5) / (1 + epoch)

    assert rates(Custom(function), [0, 0.9, 3.2]) == [0.5, 0.5, 0.125]
    assert seen == [0, 0, 3]
    assert all(type(epoch) is int for epoch in seen)


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, "0.1", None])
def test_function_that_returns_no_rate(wrong):
    schedule = Custom(lambda epoch: 0.1 if epoch < 3 else wrong)
    assert schedule.rate(2.9, {}) == 0.1
    with pytest.raises((ValueError, TypeError), match="the learning rate of epoch 3 must be"):
        schedule.rate(3.5, {})


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_what_every_schedule_promises(schedule):
    _ = schedule.begin()
    for epoch in np.linspace(0, 25, 101):
        rate = schedule.rate(float(epoch), schedule.begin())
        assert type(rate) is float
        assert 0 <= rate <= 0.1
        if not schedule.per_update:
            assert rate == schedule.rate(math.floor(epoch), schedule.begin())
    for other in (
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
        dataclasses.replace(schedule),
        eval(repr(schedule)),
    ):
        assert other == schedule
        assert hash(other) == hash(schedule)
    assert all(isinstance(value, int | float) for value in schedule.begin().values())


def test_only_the_smooth_ones_change_within_an_epoch():
    assert {type(schedule) for schedule in EVERY if schedule.per_update} == {Cosine, OneCycle}


def test_a_description_stays_as_it_is():
    schedule = OnPlateau(1.0, patience=0)
    watch(schedule, [1.0, 2.0, 3.0])
    assert schedule == OnPlateau(1.0, patience=0)
    assert schedule.begin() is not schedule.begin()


def test_get():
    step = Step(0.1, every=3)
    assert schedules.get(step) is step
    assert schedules.get(0.1) == Constant(0.1)
    assert schedules.get(np.float64(1)) == Constant(1.0)
    assert schedules.get(math.exp) == Custom(math.exp)
    for wrong in ("0.1", None, Step, [0.1]):
        with pytest.raises(TypeError, match="learning_rate must be a number > 0, a schedule such"):
            schedules.get(wrong)


def test_a_schedule_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Halving(Schedule):
        def rate(self, epoch, state):
            return 0.5 ** math.floor(epoch)

    assert schedules.get(Halving()).rate(2.5, Halving().begin()) == 0.25
    assert Halving().observe({}, 1.0) is None
    with pytest.raises(NotImplementedError, match="Schedule must define rate"):
        Schedule().rate(0, {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0), "learning_rate must be finite and > 0, got 0"),
        (lambda: Constant("fast"), "learning_rate must be a number, got 'fast'"),
        (lambda: Constant(True), "learning_rate must be a number, got True"),
        (lambda: Step(-1, 2), "learning_rate must be finite and > 0, got -1"),
        (lambda: Step(0.1, every=0), "every must be finite and >= 1, got 0"),
        (lambda: Step(0.1, every=1.5), "every must be a whole number of epochs, got 1.5"),
        (lambda: Step(0.1, every=2, factor=0), "factor must be finite and > 0 and <= 1, got 0"),
        (lambda: Exponential(0.1, 1.1), "factor must be finite and > 0 and <= 1, got 1.1"),
        (lambda: InverseScaling(0.1, power=-1), "power must be finite and >= 0, got -1"),
        (lambda: Cosine(0.1, epochs=0), "epochs must be finite and > 0, got 0"),
        (lambda: Cosine(0.1, 5, warmup=5), "warmup must be finite and >= 0 and < 5, got 5"),
        (lambda: Cosine(0.1, 5, final=0.2), "final must be finite and >= 0 and <= 0.1, got 0.2"),
        (lambda: OneCycle(math.nan, 5), "peak must be finite and > 0, got nan"),
        (lambda: OneCycle(0.1, 5, start=0.2), "start must be finite and >= 0 and <= 0.1"),
        (lambda: OneCycle(0.1, 5, rise=1), "rise must be finite and > 0 and < 1, got 1"),
        (lambda: OnPlateau(0.1, factor=1), "factor must be finite and > 0 and < 1, got 1"),
        (lambda: OnPlateau(0.1, patience=-1), "patience must be finite and >= 0, got -1"),
        (lambda: OnPlateau(0.1, cooldown=True), "cooldown must be a whole number"),
        (lambda: OnPlateau(0.1, min_delta=1), "min_delta must be finite and >= 0 and < 1, got 1"),
        (lambda: OnPlateau(0.1, minimum=1), "minimum must be finite and >= 0 and <= 0.1, got 1"),
        (lambda: Custom(0.1), "function must be a function of the epoch, got 0.1"),
        (lambda: Custom(Step), "function must be a function of the epoch"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
