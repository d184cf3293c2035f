"""Every optimiser against closed forms and other people's code, on every backend."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gpubackprop import backends, optimizers, schedules
from gpubackprop.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop

DTYPES = [np.dtype("float32"), np.dtype("float64")]
#: Some ten roundings in each of the 12 updates, on numbers near 1.
RTOL = {np.dtype("float32"): 2e-5, np.dtype("float64"): 1e-13}
N_STEPS = 12

#: Every kind of update that there is.
UPDATES = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True),
    RMSprop(0.01),
    Adam(0.01),
    Adam(0.01, epsilon=0.3),
    Adam(0.01, epsilon=0.3, epsilon_at="uncorrected"),
    AdamW(0.01),
    Rprop(0.1),
]


class Run:
    """Parameters and slots of one optimiser on one backend, as a training run holds them."""

    def __init__(self, backend, optimizer, w, dtype):
        self.backend, self.optimizer, self.dtype = backend, optimizer, dtype
        self.w = backend.asarray(np.array(w, dtype))
        self.slots = {
            name: backend.asarray(np.full(len(w), start, dtype))
            for name, start in optimizer.slot_start.items()
        }
        self.steps = 0

    def step(self, g, learning_rate=None):
        """Do one update and return the new w."""
        self.steps += 1
        rate = self.optimizer.learning_rate if learning_rate is None else learning_rate
        g = self.backend.asarray(np.array(g, self.dtype))
        call(
            self.backend,
            self.optimizer.expression,
            self.dtype,
            g,
            *self.optimizer.scalars(self.steps, rate),
            self.w,
            *(self.slots[name] for name in self.optimizer.slots),
        )
        return self.numpy(self.w)

    def numpy(self, array):
        return np.array(self.backend.to_numpy(array))


def call(backend, expression, dtype, *values):
    with backend.active():
        backend.elementwise(expression, dtype)(*values)


@pytest.fixture
def gradients():
    """Gradients of a few updates, some of them 0."""
    g = np.random.default_rng(3).normal(0, 1, (N_STEPS, 7))
    g[4, 2] = 0
    g[:, 5] = 0
    return g.astype("float32").astype("float64")


def memory(keep, values):
    """Return the sum of keep ** age * value: what an exponential average has added up."""
    ages = np.arange(len(values))[::-1]
    return (keep ** ages[:, None] * values).sum(axis=0)


def closed_form(optimizer, w, g):
    """Return w after the updates g, each from the whole history instead of from slots."""
    for t in range(1, len(g) + 1):
        past, now, lr = g[:t], g[t - 1], optimizer.learning_rate
        match optimizer:
            case SGD(momentum=mu, nesterov=nesterov):
                fall = lr * memory(mu, past)
                w = w - (mu * fall + lr * now if nesterov else fall)
            case RMSprop(rho=rho, epsilon=epsilon):
                w = w - lr * now / (np.sqrt((1 - rho) * memory(rho, past**2)) + epsilon)
            case Adam(beta1=beta1, beta2=beta2, epsilon=epsilon):
                mean = memory(beta1, past) / (beta1 ** np.arange(t)).sum()
                square = memory(beta2, past**2) / (beta2 ** np.arange(t)).sum()
                if optimizer.epsilon_at == "uncorrected":
                    epsilon = epsilon / math.sqrt(1 - beta2**t)
                w = w - lr * mean / (np.sqrt(square) + epsilon)
    return w


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("optimizer", UPDATES[:-1], ids=repr)
def test_updates_follow_the_closed_form(backend, optimizer, dtype, gradients):
    w = np.linspace(-1, 1, gradients.shape[1])
    run = Run(backend, optimizer, w, dtype)
    for t, g in enumerate(gradients, 1):
        got = run.step(g)
        assert_allclose(got, closed_form(optimizer, w, gradients[:t]), RTOL[dtype], RTOL[dtype])


def textbook_rprop(optimizer, w, g):
    """iRprop- of one weight as Igel and Hüsken print it, in Python's floats."""
    step, before = optimizer.learning_rate, 0.0
    for now in g:
        if before * now > 0:
            step = min(step * optimizer.increase, optimizer.step_max)
        elif before * now < 0:
            step = max(step * optimizer.decrease, optimizer.step_min)
            now = 0.0
        w -= math.copysign(step, now) if now else 0.0
        before = now
    return w


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "optimizer", [Rprop(), Rprop(0.1, step_min=0.08, step_max=0.13, increase=2.0)], ids=repr
)
def test_rprop_follows_the_textbook(backend, optimizer, dtype, gradients):
    run = Run(backend, optimizer, np.zeros(7), dtype)
    for t, g in enumerate(gradients, 1):
        expected = [textbook_rprop(optimizer, 0.0, column) for column in gradients[:t].T]
        assert_allclose(run.step(g), expected, RTOL[dtype], RTOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rprop_sees_the_sign_of_gradients_whose_product_underflows(backend, dtype):
    smallest = float(np.finfo(dtype).tiny)
    run = Run(backend, Rprop(0.1), [0.0, 0.0], dtype)
    run.step([smallest, smallest])
    run.step([smallest, -smallest])
    assert_allclose(run.numpy(run.slots["step"]), [0.12, 0.05], RTOL[dtype])
    assert_allclose(run.numpy(run.w), [-0.22, -0.1], RTOL[dtype])


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_equals_scikit_learn(backend, nesterov, gradients):
    theirs = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    w = [np.zeros(7)]
    optimizer = theirs.SGDOptimizer(w, 0.05, momentum=0.8, nesterov=nesterov)
    run = Run(backend, SGD(0.05, momentum=0.8, nesterov=nesterov), w[0], np.dtype("float64"))
    for g in gradients:
        optimizer.update_params(w, [g])
        assert_allclose(run.step(g), w[0], 1e-14, 1e-15)


def test_adam_equals_scikit_learn(backend, gradients):
    theirs = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    w = [np.zeros(7)]
    optimizer = theirs.AdamOptimizer(w, 0.05, epsilon=1e-3)
    ours = Adam(0.05, epsilon=1e-3, epsilon_at="uncorrected")
    run = Run(backend, ours, w[0], np.dtype("float64"))
    for g in gradients:
        optimizer.update_params(w, [g])
        assert_allclose(run.step(g), w[0], 1e-14, 1e-15)


def test_adamw_equals_the_loop_that_pytorch_documents(backend, gradients):
    lr, decay, beta1, beta2, epsilon = 0.02, 0.3, 0.8, 0.95, 1e-6
    ours = AdamW(lr, beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=decay)
    theta = np.linspace(-2, 2, 7)
    run = Run(backend, ours, theta, np.dtype("float64"))
    m = v = np.zeros(7)
    for t, g in enumerate(gradients, 1):
        theta = theta - lr * decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - lr * m_hat / (np.sqrt(v_hat) + epsilon)

        call(backend, ours.decay, run.dtype, lr * ours.weight_decay, run.w)
        assert_allclose(run.step(g), theta, 1e-13, 1e-14)


def test_adams_first_step_is_the_learning_rate_whatever_the_gradient(backend):
    """Section 2.1 of the paper: the step does not depend on the scale of the gradient."""
    g = np.array([1e-2, -1.0, 1e4])
    run = Run(backend, Adam(0.125, epsilon=1e-12), np.zeros(3), np.dtype("float64"))
    assert_allclose(run.step(g), -0.125 * np.sign(g), 1e-9)


def test_adam_in_float32_does_not_round_one_minus_beta2(backend):
    run = Run(backend, Adam(0.01), [0.0], np.dtype("float32"))
    run.step([1.0])
    # 1 - float32(0.999) would be off by 1.3e-5.
    assert_allclose(run.numpy(run.slots["v"]), [0.001], rtol=2e-7)


def test_the_learning_rate_of_each_update_counts(backend):
    run = Run(backend, SGD(lambda epoch: 1.0), [0.0], np.dtype("float64"))
    run.step([1.0], 0.5)
    assert_allclose(run.step([1.0], 0.25), [-0.75])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("optimizer", UPDATES, ids=repr)
class TestEveryUpdate:
    def test_zeros_of_the_padding_stay_zeros(self, backend, optimizer, dtype):
        run = Run(backend, optimizer, [0.0], dtype)
        for _ in range(3):
            assert_array_equal(run.step([0.0]), [0.0])

    def test_without_gradient_nothing_moves(self, backend, optimizer, dtype):
        run = Run(backend, optimizer, [0.7], dtype)
        for _ in range(3):
            assert_array_equal(run.step([0.0]), np.array([0.7], dtype))

    def test_nan_gradient_reaches_the_weight(self, backend, optimizer, dtype):
        run = Run(backend, optimizer, [0.7, 0.7], dtype)
        run.step([1.0, 1.0])
        assert_array_equal(np.isnan(run.step([np.nan, 1.0])), [True, False])

    def test_gradient_is_only_read_and_dtype_kept(self, backend, optimizer, dtype):
        run = Run(backend, optimizer, np.ones(5), dtype)
        g = backend.asarray(np.full(5, 0.5, dtype))
        slots = [run.slots[name] for name in optimizer.slots]
        call(backend, optimizer.expression, dtype, g, *optimizer.scalars(1, 0.1), run.w, *slots)
        assert_array_equal(run.numpy(g), np.full(5, 0.5))
        assert all(array.dtype == dtype for array in (g, run.w, *slots))


@pytest.mark.parametrize("optimizer", UPDATES, ids=repr)
def test_finds_the_bottom_of_a_bowl(optimizer):
    bottom, slope = np.array([1.0, -2.0, 0.5]), np.array([1.0, 0.3, 2.0])
    run = Run(backends.get("numpy"), optimizer, np.zeros(3), np.dtype("float64"))
    w = np.zeros(3)
    for step in range(4000):
        w = run.step(slope * (w - bottom), 0.1 * 0.998**step)
    assert_allclose(w, bottom, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestPenaltyAndDecay:
    w = np.array([-2.0, -0.5, 0.0, 0.25, 3.0])
    g = np.array([1.0, -1.0, 0.5, 0.0, 2.0])

    @pytest.mark.parametrize(("l1", "l2"), [(0.5, 0), (0, 0.25), (0.5, 0.25)])
    @pytest.mark.parametrize("share", [1.0, 0.125])
    def test_penalty_is_the_gradient_of_what_it_stands_for(self, backend, dtype, l1, l2, share):
        g, w = backend.asarray(self.g.astype(dtype)), backend.asarray(self.w.astype(dtype))
        optimizer = SGD(l1=l1 / share, l2=l2 / share)
        call(backend, optimizer.penalty, dtype, w, *optimizer.penalty_factors(share), g)

        def cost(w):
            return l1 * np.abs(w) + l2 / 2 * w**2

        h = 2.0**-10  # both sides of 0 alike: the slope there is 0
        expected = self.g + (cost(self.w + h) - cost(self.w - h)) / (2 * h)
        assert_allclose(backend.to_numpy(g), expected, RTOL[dtype])
        assert_array_equal(backend.to_numpy(w), self.w)

    def test_no_penalty(self, dtype):
        assert SGD().penalty is None
        assert SGD().penalty_factors() == ()

    def test_decay(self, backend, dtype):
        w = backend.asarray(self.w.astype(dtype))
        call(backend, SGD().decay, dtype, 0.125, w)
        assert_array_equal(backend.to_numpy(w), self.w * 0.875)

    def test_masked_decay(self, backend, dtype):
        w = backend.asarray(self.w.astype(dtype))
        trainable = backend.asarray(np.array([1, 0, 1, 1, 0], dtype))
        call(backend, SGD().masked_decay, dtype, trainable, 0.125, w)
        assert_array_equal(backend.to_numpy(w), self.w * [0.875, 1, 0.875, 0.875, 1])


def test_slots_and_scalars_agree_with_the_expression():
    for optimizer in UPDATES:
        assert optimizer.expression.arguments == ("g",)
        assert optimizer.expression.outputs == ("w", *optimizer.slots)
        assert tuple(optimizer.slot_start) == optimizer.slots
        assert len(optimizer.scalars(1, 0.1)) == len(optimizer.scalar_names)
    assert SGD().slots == ()
    assert SGD(momentum=0.5).slots == ("velocity",)
    assert Rprop(0.3).slot_start == {"previous": 0.0, "step": 0.3}


def test_adam_late_in_training_needs_no_correction():
    assert Adam(epsilon=1e-3).scalars(10**9, 0.1) == (0.1, 1e-3)


def test_only_rprop_is_for_batch_mode():
    assert [type(o) for o in map(optimizers.get, optimizers.OPTIMIZERS) if o.batch_only] == [Rprop]


@pytest.mark.parametrize("optimizer", [*UPDATES, Adam(l1=0.1, l2=0.2, clip_norm=5)], ids=repr)
def test_a_description_is_a_value(optimizer):
    _ = optimizer.expression, optimizer.penalty, optimizer.decay
    for other in (
        pickle.loads(pickle.dumps(optimizer)),
        copy.deepcopy(optimizer),
        dataclasses.replace(optimizer),
        eval(repr(optimizer)),
    ):
        assert other == optimizer
        assert hash(other) == hash(optimizer)
        assert other.expression.key == optimizer.expression.key
    assert dataclasses.replace(optimizer, weight_decay=0.5) != optimizer
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.learning_rate = 1.0


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(SGD(1, momentum=np.float64(0.5))) == "SGD(learning_rate=1.0, momentum=0.5)"
    assert repr(AdamW()) == "AdamW(learning_rate=0.001)"
    step = schedules.Step(0.1, every=5)
    assert repr(SGD(step)) == f"SGD(learning_rate={step!r})"


def test_schedule_of_a_learning_rate():
    step = schedules.Step(0.1, every=5)
    assert SGD(step).schedule is step
    assert SGD(0.5).schedule == schedules.Constant(0.5)
    assert SGD(lambda epoch: 0.5 / (1 + epoch)).schedule.rate(1.5, {}) == 0.25


def test_get():
    adam = Adam(0.5)
    assert optimizers.get(adam) is adam
    assert optimizers.get("adamw") == AdamW()
    with pytest.raises(ValueError, match="one of sgd, rmsprop, adam, adamw, rprop, got 'adagrad'"):
        optimizers.get("adagrad")
    for wrong in (SGD, None, 0.1):
        with pytest.raises(TypeError, match="optimizer must be an optimiser such as SGD"):
            optimizers.get(wrong)


def test_an_optimiser_of_ones_own(backend):
    @dataclasses.dataclass(frozen=True)
    class SignSGD(Optimizer):
        @property
        def expression(self):
            formula = "w - learning_rate * where(g < 0, -1, 1)"
            return optimizers.Expression(
                "sign_sgd_step", ("g",), {"w": formula}, ("w",), ("learning_rate",)
            )

    run = Run(backend, optimizers.get(SignSGD(0.5)), [0.0, 0.0], np.dtype("float64"))
    assert_array_equal(run.step([3.0, -0.1]), [-0.5, 0.5])


@pytest.mark.parametrize("optimizer", optimizers.OPTIMIZERS.values())
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be finite and > 0, got 0"),
        ({"learning_rate": -0.1}, "learning_rate must be finite and > 0, got -0.1"),
        ({"learning_rate": math.nan}, "learning_rate must be finite and > 0, got nan"),
        ({"learning_rate": math.inf}, "learning_rate must be finite and > 0, got inf"),
        ({"learning_rate": True}, "learning_rate must be a number, got True"),
        ({"learning_rate": "0.1"}, "learning_rate must be a number > 0, a schedule"),
        ({"learning_rate": schedules.Step}, "learning_rate must be a number > 0, a schedule"),
        ({"l1": -1}, "l1 must be finite and >= 0, got -1"),
        ({"l2": math.nan}, "l2 must be finite and >= 0, got nan"),
        ({"weight_decay": -1e-9}, "weight_decay must be finite and >= 0"),
        ({"weight_decay": "0.1"}, "weight_decay must be a number, got '0.1'"),
        ({"clip_norm": 0}, "clip_norm must be finite and > 0, got 0"),
        ({"clip_norm": math.inf}, "clip_norm must be finite and > 0, got inf"),
    ],
)
def test_bad_arguments_of_every_optimiser(optimizer, wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        optimizer(**wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(momentum=1), "momentum must be finite and >= 0 and < 1, got 1"),
        (lambda: SGD(momentum=-0.1), "momentum must be finite and >= 0 and < 1"),
        (lambda: SGD(nesterov=True), "nesterov=True needs momentum > 0"),
        (lambda: SGD(nesterov="yes"), "nesterov must be True or False"),
        (lambda: SGD(0.1, 0.9), "positional"),
        (lambda: RMSprop(rho=1.0), "rho must be"),
        (lambda: RMSprop(epsilon=0), "epsilon must be finite and >= 1e-30, got 0"),
        (lambda: Adam(beta1=1.0), "beta1 must be"),
        (lambda: Adam(beta2=-1.0), "beta2 must be"),
        (lambda: Adam(epsilon=0), "epsilon must be"),
        (lambda: Adam(epsilon_at="inside"), 'epsilon_at must be "corrected" or "uncorrected"'),
        (lambda: Rprop(lambda epoch: 0.1), "learning_rate must be a number, got <function"),
        (lambda: Rprop(schedules.Constant(0.1)), "learning_rate must be a number, got Constant"),
        (lambda: Rprop(100.0), "learning_rate must be finite and >= 1e-06 and <= 50, got 100.0"),
        (lambda: Rprop(increase=1.0), "increase must be finite and > 1, got 1.0"),
        (lambda: Rprop(decrease=1.0), "decrease must be finite and > 0 and < 1, got 1.0"),
        (lambda: Rprop(step_min=0.0), "step_min must be finite and > 0"),
        (lambda: Rprop(step_min=1.0, step_max=0.5), "step_min must be finite and > 0 and <= 0.5"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
