"""Training with several threads: the same bits every time, and what one thread gets to rounding."""

import multiprocessing
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import gpubackprop as gb
from gpubackprop import threads, training
from gpubackprop.threads import limited, run_all

pytest.importorskip("numba")
split = pytest.importorskip("gpubackprop.executors.compiled.split")

X = np.random.default_rng(0).standard_normal((700, 20))
LABELS = np.random.default_rng(1).integers(0, 3, 700)


@pytest.fixture(autouse=True)
def _small_jobs_are_split_too(monkeypatch):
    """As if there were four processors, and everything were worth it."""
    monkeypatch.setattr(threads, "available", lambda: 4)
    monkeypatch.setattr(split, "SPLIT_PRODUCTS", 0)
    monkeypatch.setattr(split, "SPLIT_ROWS", 16)
    monkeypatch.setattr(split, "PARAMETERS_STEP", 32)


def trained(n_threads=2, *, executor="compiled", batch_size=128, dtype="float64", **options):
    net = gb.Network(
        [20, 30, 3], hidden="tanh", output="softmax", loss="cross_entropy", dtype=dtype,
        backend="numpy", rng=0, dropout=options.pop("dropout", 0.0),
    )  # fmt: skip
    options = {"optimizer": gb.SGD(0.1)} | options
    net.fit(
        X.astype(dtype), LABELS, batch_size=batch_size, epochs=2, progress=False,
        executor=executor, threads=n_threads, **options,
    )  # fmt: skip
    return net


def flat(net):
    return np.concatenate([p.ravel() for p in [*net.weights, *net.biases]])


def mask():
    rng = np.random.default_rng(5)
    shapes = (30, 20), (3, 30)
    return [rng.random(s) < 0.5 for s in shapes], [rng.random(s[:1]) < 0.5 for s in shapes]


JOBS = {
    "sgd": {},
    "full": {"batch_size": "full"},
    "a short last batch": {"batch_size": 300},
    "adam": {"optimizer": gb.Adam()},
    "penalties and momentum": {"optimizer": gb.SGD(0.1, momentum=0.9, l2=0.01, l1=0.001)},
    "decay": {"optimizer": gb.AdamW(weight_decay=0.1)},
    "clipping, which is not split": {"optimizer": gb.SGD(0.1, clip_norm=0.01)},
    "frozen": {"trainable": mask(), "optimizer": gb.AdamW(weight_decay=0.1)},
    "dropout": {"dropout": 0.3},
    "weights": {"sample_weight": np.random.default_rng(3).random(700)},
}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("n_threads", [2, 3])
def test_it_is_what_eager_does(job, n_threads):
    net, expected = trained(n_threads, **JOBS[job]), trained(1, executor="eager", **JOBS[job])
    assert_allclose(flat(net), flat(expected), rtol=1e-9, atol=1e-12)
    assert_allclose(net.history.loss, expected.history.loss, rtol=1e-11)
    assert net.history.threads == n_threads


# W[0] has 600 weights.
@pytest.mark.parametrize(("large", "parts", "limit"), [(600, 1, None), (601, 2, 1)])
def test_a_large_layer_is_left_to_blas(monkeypatch, large, parts, limit):
    found = []

    class Look(split.Split):
        def __init__(self, job, program, parts, *arguments):
            found.append(parts)
            super().__init__(job, program, parts, *arguments)

    monkeypatch.setattr(split, "LARGE_LAYER", large)
    monkeypatch.setattr(split, "calls_blas", lambda model: True)
    monkeypatch.setattr("gpubackprop.executors.compiled.executor.Split", Look)
    limits = []
    monkeypatch.setattr(training, "limited", lambda n: limits.append(n) or threads.limited(n))
    net, expected = trained(2), trained(1, executor="eager")
    assert_allclose(flat(net), flat(expected), rtol=1e-9, atol=1e-12)
    assert found == [parts] * (parts > 1)
    assert limits == [limit, None]  # the eager one has none


def test_blas_is_not_limited_where_it_has_nothing_to_do():
    limits = []
    jobs = [("direct", 65), ("direct", 64), ("held back", 65), ("held back", 64), ("fixed", 65)]
    for loop, n_out in jobs:
        net = gb.Network([20, n_out, 64], backend="numpy", rng=0)
        job = SimpleNamespace(model=net.model, threads=2, batch_size=32)
        limits.append(split.blas_threads(job, loop))
    assert limits == [1, None, 1, None, None]


def test_the_same_threads_get_the_same_bits():
    nets = [trained(2, dtype="float32", batch_size=256) for _ in range(3)]
    assert all((flat(net) == flat(nets[0])).all() for net in nets[1:])


def test_it_is_split(monkeypatch):
    seen = []

    def noted(calls):
        seen.append(len(calls))
        for call in calls:
            call()

    monkeypatch.setattr(split, "run_all", noted)
    trained(3)
    assert set(seen) == {3}
    seen.clear()
    trained(1)
    assert not seen


def test_two_fits_in_two_threads_are_two_fits():
    expected, found = flat(trained()), [None, None]

    def fit(i):
        found[i] = flat(trained())

    fits = [threading.Thread(target=fit, args=(i,)) for i in range(2)]
    for one in fits:
        one.start()
    for one in fits:
        one.join()
    assert all((one == expected).all() for one in found)


def _train_in_child(queue):
    queue.put(flat(trained()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside threads
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork"
)
def test_a_fit_after_a_fork_is_the_same():
    expected = flat(trained())  # the pool of this process is there now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_train_in_child, args=(queue,))
    child.start()
    found = queue.get(timeout=120)
    child.join(60)
    assert child.exitcode == 0
    assert (found == expected).all()


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_grid_search_equals_the_single_run(backend):
    joblib = pytest.importorskip("joblib")
    sklearn = pytest.importorskip("sklearn.model_selection")
    from gpubackprop.sklearn import MLPClassifier

    model = MLPClassifier((8,), max_iter=3, random_state=0, n_iter_no_change=10)
    grid = {"learning_rate_init": [0.01, 0.1]}
    scores = []
    for n_jobs in (1, 2):
        search = sklearn.GridSearchCV(model, grid, cv=2, n_jobs=n_jobs, refit=False)
        with joblib.parallel_backend(backend, n_jobs=n_jobs):
            search.fit(X.astype(np.float32), LABELS)
        scores.append(search.cv_results_["mean_test_score"])
    assert (scores[0] == scores[1]).all()


def test_a_nan_is_reported():
    net = gb.Network(
        [20, 30, 3], hidden="relu", output="softmax", loss="cross_entropy", backend="numpy", rng=0
    )
    data = X.astype(np.float32)
    data[600] = 1e38  # in batch 4, in the second thread's rows: its z is infinite
    net.weights[0][...] = np.where(np.arange(20) % 2, -1e3, 1e3)
    with pytest.raises(gb.DivergenceError) as caught:
        net.fit(data, LABELS, batch_size=128, epochs=2, optimizer=gb.SGD(0.1), shuffle=False,
                progress=False, executor="compiled", threads=2)  # fmt: skip
    assert (caught.value.epoch, caught.value.batch) == (0, 4)


def test_all_run_and_the_first_error_is_raised():
    done = []
    run_all([lambda: done.append(0), lambda: done.append(1), lambda: done.append(2)])
    assert sorted(done) == [0, 1, 2]

    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_all([lambda: done.append(3), fails])
    with pytest.raises(ZeroDivisionError):
        run_all([fails, lambda: done.append(4)])
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_the_smallest_of_several_limits_holds_and_all_end():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def now():
        info = threadpoolctl.threadpool_info()
        return {pool["num_threads"] for pool in info if pool["user_api"] == "blas"}

    before = now()
    with limited(2):
        with limited(1):
            assert now() == {1}
        outer = limited(1)
        outer.__enter__()
    assert now() == {1}  # they need not end in the order of their beginnings
    outer.__exit__(None, None, None)
    assert now() == before


@pytest.mark.parametrize(("n", "parts"), [(0, 2), (1, 3), (64, 2), (100, 3), (8192, 4), (33, 2)])
def test_parts_cover_everything_once(n, parts):
    found = split.bounds(n, parts, 32)
    assert found[0] == 0
    assert found[-1] == n
    assert len(found) == parts + 1
    assert found == sorted(found)
    assert all(start % 32 == 0 or start == n for start in found)
