"""`gradient_check`: it accepts right gradients, finds wrong ones, and leaves kinks alone."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from random_networks import HIDDEN, allowed_pairs, random_network

import gpubackprop as gb
from gpubackprop import gradient_check
from gpubackprop.gradcheck import entry_names

N_RANDOM = 200


def test_200_random_networks():
    seen, entries, kinks, worst = set(), 0, 0, (0.0, "")
    for i in range(N_RANDOM):
        net, arguments = random_network(i)
        seen |= {a.name for a in net.model.activations[:-1]}
        seen.add((net.model.activations[-1].name, net.model.loss.name))
        for dropping in {False, any(net.model.dropout)}:
            result = gradient_check(net, **arguments, dropout=dropping)
            entries, kinks = entries + result.n_entries, kinks + len(result.kinks)
            worst = max(worst, (result.error, f"network {i}, {net}: {result}"))
    assert seen >= {*HIDDEN, *allowed_pairs()}
    assert worst[0] <= 1e-8, worst[1]
    assert kinks <= 0.01 * entries


def test_error_is_relative_to_the_largest_gradient():
    net = gb.Network([1, 1], output="identity", bias=False, backend="numpy", dtype="float64", rng=0)
    net.weights[0][...] = 2.0
    result = gradient_check(net, [[3.0]], [[1.0]])
    assert result.analytic == 15.0  # (2 * 3 - 1) * 3
    assert_allclose(result.numeric, 15.0, rtol=1e-9)
    assert result.error == abs(result.numeric - 15.0) / max(15.0, result.numeric)
    assert result.where == "W[0][0, 0]"
    assert (result.n_entries, result.kinks) == (1, ())


def test_a_wrong_derivative_is_found(backend):
    right = gb.ACTIVATIONS["tanh"]
    wrong = gb.Activation("wrong_tanh", f="tanh(z)", df="1.01 * (1 - a * a)")
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(5, 2)), rng.normal(size=(5, 1))
    errors = {}
    for activation in (right, wrong):
        net = gb.Network([2, 3, 1], activation, "identity", backend=backend, rng=0)
        result = gradient_check(net, X, Y)
        errors[activation] = result.error
    assert errors[right] < 1e-8
    assert errors[wrong] > 1e-4
    assert result.where.startswith(("W[0]", "b[0]"))
    assert f"{result.error:.2e}" in str(result)
    assert result.where in str(result)


def test_a_wrong_loss_is_found():
    wrong = gb.Loss("squared", f="0.5 * (y - o) ** 2", df="1.01 * (o - y)")
    net = gb.Network([2, 1], output="tanh", loss=wrong, backend="numpy", rng=0)
    assert gradient_check(net, [[0.3, -0.2]], [[0.9]]).error > 1e-4


def test_kinks_are_listed_and_not_judged():
    net = gb.Network([2, 2, 1], "relu", "identity", backend="numpy", dtype="float64", rng=0)
    net.weights[0][...] = [[1.0, -1.0], [0.5, 0.5]]
    net.weights[1][...] = 1.0
    # z[0] of the first unit is exactly 0: its weights and its bias stand at a kink.
    result = gradient_check(net, [[1.0, 1.0]], [[3.0]])
    assert result.kinks == ("W[0][0, 0]", "W[0][0, 1]", "b[0][0]")
    assert result.error < 1e-8
    assert "3 at a kink" in str(result)


def test_kinks_of_a_loss():
    net = gb.Network([1, 1], output="identity", loss="absolute", backend="numpy", rng=0)
    net.weights[0][...] = 0.5
    result = gradient_check(net, [[1.0]], [[0.5]])
    assert result.kinks == ("W[0][0, 0]", "b[0][0]")
    assert (result.where, result.error) == ("nowhere", 0.0)


def test_the_network_stays_as_it_is(backend):
    net = gb.Network([2, 3, 1], dropout=0.5, output="sigmoid", backend=backend, rng=0)
    before = backend.to_numpy(net._parameters.flat).copy()
    state = net.rng.bit_generator.state
    gradient_check(net, [[0.1, 0.2]], [1], dropout=True)
    assert_array_equal(backend.to_numpy(net._parameters.flat), before)
    assert net.rng.bit_generator.state == state
    assert net._steps == 0


def test_a_float32_network_is_checked_in_float64():
    net = gb.Network([2, 3, 1], output="sigmoid", backend="numpy", rng=0)
    assert gradient_check(net, [[0.1, 0.2]], [1]).error < 1e-8


def test_entries_are_named_by_layer_and_place():
    net = gb.Network([2, 3, 1], bias=[True, False], output="identity", backend="numpy", rng=0)
    names = list(entry_names(net.model).values())
    assert names[:3] == ["W[0][0, 0]", "W[0][0, 1]", "W[0][1, 0]"]
    assert names[-4:] == ["W[1][0, 2]", "b[0][0]", "b[0][1]", "b[0][2]"]


@pytest.mark.parametrize("h", [0, -1e-5, float("nan"), float("inf"), "small", True])
def test_a_bad_h(h):
    net = gb.Network([2, 1], output="identity", backend="numpy", rng=0)
    with pytest.raises(ValueError, match="h must be a number > 0"):
        gradient_check(net, [[0.1, 0.2]], [1], h=h)
