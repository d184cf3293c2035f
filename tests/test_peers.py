"""The benchmark beside the peers: its float64 answer, its own engines, its report."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = ("4-4-4-1/sgd", "4-4-4-1/32", "4-4-4-1/full", "784-30-10/sgd")
OTHERS = ("8-100-1 relu/200/adam", "20-100-100-1 tanh/2048/adam", "64-64-64-10 relu/4")
GELU = "20-100-100-1 gelu/32/adam"
PAIRS = [
    *itertools.product(SMALL, ("ours-eager", "numpy-hand", "sklearn")),
    *itertools.product(OTHERS, ("ours-eager", "sklearn")),
    (GELU, "ours-eager"),
]
erf = np.vectorize(math.erf, otypes=[float])


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("hidden", ["sigmoid", "tanh", "relu", "gelu"])
@pytest.mark.parametrize("loss", ["squared", "log_loss", "cross_entropy", "linear"])
def test_the_reference_descends_along_the_gradient(loss, hidden):
    from contest.cells import _gradient

    rng = np.random.default_rng(0)
    P = [rng.standard_normal(s) for s in ((4, 3), (4,), (2, 4), (2,))]
    x, y = rng.standard_normal((5, 3)), np.eye(2)[[0, 1, 1, 0, 1]]

    forward = {
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh,
        "relu": lambda z: z * (z > 0), "gelu": lambda z: z * (0.5 + 0.5 * erf(z / 2**0.5)),
    }  # fmt: skip
    output = {"cross_entropy": "softmax", "linear": "identity"}.get(loss, "sigmoid")

    def mean_loss():
        z = forward[hidden](x @ P[0].T + P[1]) @ P[2].T + P[3]
        if loss == "linear":
            return 0.5 * ((z - y) ** 2).sum(1).mean()
        if loss == "cross_entropy":
            return (np.log(np.exp(z).sum(1)) - (z * y).sum(1)).mean()
        o = 1 / (1 + np.exp(-z))
        if loss == "squared":
            return 0.5 * ((o - y) ** 2).sum(1).mean()
        return -(y * np.log(o) + (1 - y) * np.log(1 - o)).sum(1).mean()

    kind = "squared" if loss == "linear" else loss
    for p, g in zip(P, _gradient(P, x, y, kind, (hidden, output)), strict=True):
        for i in np.ndindex(p.shape):
            kept = p[i]
            p[i] = kept + 1e-6
            above = mean_loss()
            p[i] = kept - 1e-6
            below = mean_loss()
            p[i] = kept
            assert_allclose(g[i], (above - below) / 2e-6, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("cell", "engine", "reason"),
    [(OTHERS[0], "numpy-hand", "sigmoid units"), (GELU, "sklearn", "gelu")],
)
def test_engines_refuse_units_that_they_lack(cell, engine, reason):
    from contest.cells import CELLS
    from contest.engines import ENGINES

    assert reason in ENGINES[engine].load().refusal(CELLS[cell])


@pytest.mark.parametrize(("cell", "engine"), PAIRS)
def test_engines_agree_with_float64(cell, engine):
    from contest.cells import AGREEMENT, CELLS, distance, flat, reference
    from contest.engines import ENGINES

    chosen = CELLS[cell]
    data, order = chosen.data(), chosen.checked_order()
    make = ENGINES[engine].load()
    raw = chosen.adam and make.raw_epsilon
    expected = reference(chosen, data, order, make.loss(chosen), raw)
    trained = make(chosen, data, 1)
    trained.train(order)
    start = flat([p for pair in zip(data.weights, data.biases, strict=True) for p in pair])
    assert distance(flat(trained.parameters()), expected, start) <= AGREEMENT


@pytest.mark.parametrize("mode", ["sgd", "32"])
def test_scikit_learn_trains_on_rows_that_lack_a_class(mode):
    from contest.cells import AGREEMENT, CELLS, distance, flat, reference
    from contest.engines import ENGINES

    cell = CELLS[f"784-256-128-10/{mode}"]
    data = cell.data()
    order = np.flatnonzero(data.labels != 3)[: 2 * cell.batch_size]
    trained = ENGINES["sklearn"].load()(cell, data, 1)
    trained.train(order)
    start = flat([p for pair in zip(data.weights, data.biases, strict=True) for p in pair])
    expected = reference(cell, data, order, "cross_entropy")
    assert distance(flat(trained.parameters()), expected, start) <= AGREEMENT


def test_a_wrong_gradient_is_far_from_float64():
    from contest.cells import AGREEMENT, CELLS, distance, flat, reference

    cell = CELLS["784-30-10/32"]
    data, order = cell.data(), cell.checked_order()
    start = flat([p for pair in zip(data.weights, data.biases, strict=True) for p in pair])
    right, wrong = (reference(cell, data, order, loss) for loss in ("squared", "log_loss"))
    assert distance(wrong, right, start) > 10 * AGREEMENT
    rows = order[::-1].copy()  # the same rows in another order
    turned = reference(CELLS["784-30-10/32"], data, rows, "squared")
    assert distance(turned, right, start) > 0


def test_targets_and_losses_to_peers_are_named():
    from contest import report
    from contest.cells import CELLS

    figures = {"ours-eager": 90.0, "ours-compiled": 300.0, "torch-eager": 100.0, "jax-scan": 150.0}
    results = {name: {"samples_per_second": v, "spread": 0.0} for name, v in figures.items()}
    row = report.verdict(CELLS["784-256-128-10/32"], results)
    assert (row["times"], row["target"], row["reached"]) == ("2.00", "1.5", "yes")
    assert row["which"] == "JAX, epoch in lax.scan"
    assert row["loses to"] == "eager 0.9 x PyTorch, eager"
    assert report.verdict(CELLS["1024-2048-2048-10/sgd"], results)["reached"] == "yes"
    assert report.verdict(CELLS["784-256-128-10/sgd"], results)["reached"] == "no"


def test_fann_has_a_target_of_its_own():
    from contest import report
    from contest.cells import CELLS

    def verdict(ours, fann, jax):
        figures = {"ours-compiled": ours, "fann": fann, "jax-scan": jax}
        results = {name: {"samples_per_second": v} for name, v in figures.items()}
        return report.verdict(CELLS["4-4-4-1/sgd"], results)

    assert verdict(100.0, 40.0, 10.0)["reached"] == "yes"
    assert verdict(100.0, 40.0, 10.0)["times"] == "2.50"
    assert verdict(99.0, 40.0, 9.0)["reached"] == "no", "2.5 times FANN"
    assert verdict(99.0, 9.0, 10.0)["reached"] == "no", "10 times all others"


def test_markdown_is_replaced_between_its_marks(tmp_path):
    from contest import report

    here = report.stated(["numpy-hand"], 1)
    found = {"machine": here, "command": "x", "cells": {}, "first_use": {}, "first_cell": ""}
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nOthers' figures.\n")
    for _ in range(2):
        report.write_markdown(found, path)
    text = path.read_text()
    assert text.startswith("# Results\n\nOthers' figures.\n")
    assert text.count("## Training beside the peers") == 1
    assert here["processor"] in text


def test_an_earlier_run_stands_beside():
    from contest import report

    cell = {name: {"samples_per_second": n} for name, n in (("ours-eager", 300), ("sklearn", 100))}
    found = {
        "machine": report.stated(["numpy-hand"], 1), "command": "x", "first_use": {},
        "first_cell": "", "cells": {"784-30-10/32": cell}, "before": {"784-30-10/32": "2.50"},
    }  # fmt: skip
    head, _, row = [line for line in report.markdown(found).splitlines() if line.startswith("|")][
        :3
    ]
    shown = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert shown["times"] == "3.00"
    assert shown["times in the run before |"] == "2.50 |"
