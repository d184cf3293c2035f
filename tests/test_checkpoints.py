"""Checkpoints: a run that goes on from one ends in the same bits as if it had never ended."""

import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import killed_run
import numpy as np
import pytest
from conftest import NO_CUPY
from numpy.testing import assert_array_equal

import gpubackprop as gb
from gpubackprop import container, pace, storage
from gpubackprop.executors import EXECUTORS

RNG = np.random.default_rng(3)
#: So many inputs that a slice has few rows.
N, N_IN = 150, 2048
X = RNG.normal(size=(N, N_IN)).astype("f4") / 8
LABELS = RNG.integers(3, size=N)
W = RNG.uniform(0.5, 2, size=N)


@pytest.fixture(autouse=True)
def short_slices(monkeypatch):
    """Slices are as short as they can be, whatever the machine."""
    monkeypatch.setattr(pace, "_SLICE_SECONDS", 0.0)


@pytest.fixture
def control_c():
    """Ctrl-C means what it does at a terminal: in the background a shell switches it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def make(backend="numpy", *, rng=11, sizes=(N_IN, 5, 3), **options):
    return gb.Network(sizes, **{"hidden": "tanh", **options}, backend=backend, rng=rng)


def state(net):
    """Return everything that a run leaves behind, apart from the time that it took."""
    history = {**vars(net.history), "seconds": None}
    numbers = net.backend.to_numpy(net._parameters.flat).tobytes()
    return numbers, history, repr(net.rng.bit_generator.state), net._steps, net._dropout_seed


class Collector:
    """Keeps every checkpoint of a run."""

    def __init__(self, path):
        self.path, self.files = path, []

    def on_slice(self, run):
        if self.path.exists():
            data = self.path.read_bytes()
            if data not in self.files[-1:]:
                self.files.append(data)

    on_epoch_end = on_fit_end = on_slice


#: Executors that train on the host.
HOST = {executor for _, backend, executor in killed_run.runs() if backend == "numpy"}


def batches():
    for start in range(0, N, 8):
        yield X[start : start + 8], LABELS[start : start + 8]


PLATEAU = gb.OnPlateau(0.02, patience=0, factor=0.5, min_delta=0.9)
FROZEN = ([False, None], [None, np.array([True, False, True])])
#: Options of `fit`, and of the network.
JOBS = {
    "SGD": ({"batch_size": 1}, {}),
    "SGD with momentum": ({"batch_size": 1, "optimizer": gb.SGD(0.01, momentum=0.9)}, {}),
    "momentum, dropout, weights": (
        {
            "batch_size": 8,
            "optimizer": gb.SGD(gb.Cosine(0.05, 3), momentum=0.9, nesterov=True, clip_norm=1.0),
            "sample_weight": W,
        },
        {"dropout": 0.3},
    ),
    "Adam, plateau, early stopping": (
        {
            "batch_size": 16,
            "optimizer": gb.Adam(PLATEAU, l1=0.001),
            "validation": (X[:20], LABELS[:20]),
            "early_stopping": gb.EarlyStopping(2, min_delta=0.1),
        },
        {"dtype": "float64"},
    ),
    "frozen, AdamW": ({"batch_size": 16, "optimizer": gb.AdamW(0.01), "trainable": FROZEN}, {}),
    "rprop": ({"batch_size": "full", "optimizer": "rprop"}, {}),
    "blocks": ({"batch_size": 16, "shuffle": "blocks", "optimizer": "rmsprop"}, {"bias": False}),
    "in order": ({"batch_size": 7, "shuffle": False}, {"hidden": "gelu"}),
    "batches": ({"optimizer": gb.SGD(0.1, momentum=0.5)}, {"dropout": 0.1}),
}  # fmt: skip
DATA = {"batches": (gb.Batches(batches),)}
EPOCHS = 4


def fit(net, job, **options):
    given = DATA.get(job, (X, LABELS))
    return net.fit(*given, epochs=EPOCHS, **JOBS[job][0], **options)


def all_ends_alike(job, backend, tmp_path, every_th, *, prepare=lambda net: None, **options):
    """Compare runs that go on from checkpoints of a run, each `every_th` one, with one that does
    not.
    """
    path, other = tmp_path / "run.ckpt", tmp_path / "taken.ckpt"
    alone, kept = make(backend, **JOBS[job][1]), make(backend, **JOBS[job][1])
    for net in (alone, kept):
        prepare(net)
    fit(alone, job, **options)
    collector = Collector(path)
    fit(kept, job, checkpoint=path, every=0, callbacks=[collector], **options)
    assert state(kept) == state(alone)
    n_epochs = len(alone.history.epoch)
    assert len(collector.files) >= (n_epochs if JOBS[job][0].get("batch_size") == "full" else 12)
    for i, data in enumerate(collector.files):
        if i % every_th and i + 1 < len(collector.files):
            continue
        other.write_bytes(data)
        resumed = make(backend, rng=99, **JOBS[job][1])
        prepare(resumed)
        fit(resumed, job, resume=other, **options)
        assert state(resumed) == state(alone), f"from checkpoint {i} of {len(collector.files)}"


def test_the_jobs_do_what_is_to_be_resumed():
    """The rate falls on the plateau, and the best epoch is neither the first nor the last."""
    net = make(**JOBS["Adam, plateau, early stopping"][1])
    history = fit(net, "Adam, plateau, early stopping")
    assert len(set(history.learning_rate)) > 1
    assert 0 < history.best_epoch < history.epoch[-1]


@pytest.mark.parametrize("job", JOBS)
def test_a_resumed_run_ends_in_the_same_bits(job, tmp_path):
    """From each checkpoint of a run: in the middle of epochs and at their ends."""
    all_ends_alike(job, "numpy", tmp_path, 4 if "SGD" in job or job == "batches" else 1)


@pytest.mark.parametrize("job", ["momentum, dropout, weights", "Adam, plateau, early stopping"])
def test_on_every_backend(job, backend, tmp_path):
    all_ends_alike(job, backend, tmp_path, 9)


@pytest.mark.parametrize("executor", sorted(set(EXECUTORS) - {"eager"}))
@pytest.mark.parametrize("job", JOBS)
def test_with_every_other_executor(job, executor, tmp_path):
    """On the host."""
    if executor in HOST:
        all_ends_alike(job, "numpy", tmp_path, 6, executor=executor)
    else:
        with pytest.raises(ValueError, match=f"executor '{executor}' cannot do this job"):
            fit(make(**JOBS[job][1]), job, executor=executor)


@pytest.mark.parametrize("executor", sorted(set(EXECUTORS) - HOST))
def test_with_every_executor_of_the_device(executor, cupy_backend, tmp_path):
    """At the first of these jobs that it can do, from a few checkpoints."""
    refusals = []
    for job in ("momentum, dropout, weights", "in order", "SGD"):
        try:
            fit(make(cupy_backend, **JOBS[job][1]), job, executor=executor)
        except ValueError as error:
            refusals.append(str(error))
        else:
            all_ends_alike(job, cupy_backend, tmp_path, 15, executor=executor)
            return
    pytest.fail(f"it can do none of the jobs: {refusals}")


def test_data_that_do_not_fit_the_device(cupy_backend, tmp_path, monkeypatch):
    monkeypatch.setattr(cupy_backend, "free_bytes", lambda: 0)
    all_ends_alike("momentum, dropout, weights", cupy_backend, tmp_path, 20)


def test_memory_maps_and_sparse_matrices(tmp_path):
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    np.save(tmp_path / "X.npy", X)
    for data in (np.load(tmp_path / "X.npy", mmap_mode="r"), sparse.csr_array(X)):
        nets = [make(), make(rng=5)]
        nets[0].fit(data, LABELS, epochs=3)
        path = tmp_path / "run.ckpt"
        cut_off(make(), path, 7, data, LABELS, epochs=3)
        nets[1].fit(data, LABELS, epochs=3, resume=path)
        assert state(nets[0]) == state(nets[1])


@pytest.mark.parametrize("kind", ["PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators_of_all_kinds(kind, tmp_path):
    def generator(seed):
        made = np.random.Generator(getattr(np.random, kind)(seed))
        made.integers(5, dtype=np.uint32)  # leaves half a word in the generator
        return made

    path, alone, resumed = tmp_path / "run.ckpt", make(rng=generator(1)), make(rng=generator(2))
    alone.fit(X, LABELS, epochs=3)
    cut_off(make(rng=generator(1)), path, 7, X, LABELS, epochs=3)
    resumed.fit(X, LABELS, epochs=3, resume=path)
    assert state(alone) == state(resumed)
    with pytest.raises(
        ValueError, match=f"was made with an rng of {kind}, this network has one of"
    ):
        make(rng=1).fit(X, LABELS, epochs=3, resume=path)


def test_a_generator_that_callbacks_draw_from(tmp_path):
    """The order of rows is drawn again from the state that it was drawn from."""

    class Draws:
        def __init__(self, net):
            self.net = net

        def on_slice(self, run):
            self.net.rng.random()

    alone, cut, resumed = make(), make(), make(rng=1)
    alone.fit(X, LABELS, epochs=3, callbacks=[Draws(alone)])
    cut_off(cut, tmp_path / "run.ckpt", 7, X, LABELS, epochs=3, callbacks=[Draws(cut)])
    resumed.fit(X, LABELS, epochs=3, callbacks=[Draws(resumed)], resume=tmp_path / "run.ckpt")
    assert state(alone) == state(resumed)


# ---- killed processes ----------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "tests" / "data").glob("checkpoint-*.ckpt"))
#: Lines after which each process is killed, the last one excepted.
KILLS = 3


def start(path, *run):
    code = [sys.executable, str(ROOT / "tests" / "killed_run.py"), *run, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    pipe = subprocess.PIPE
    return subprocess.Popen(code, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("run", killed_run.runs(), ids="-".join)
def test_a_killed_run_ends_in_the_same_bits(run, tmp_path):
    """Killed by the system at random moments, mostly while it writes: it writes all the time."""
    expected = killed_run.train(*run)
    path, draw = tmp_path / "run.ckpt", random.Random(str(run))
    lines = []
    for _ in range(KILLS):
        with start(path, *run) as process:
            lines += itertools.islice(process.stdout, draw.randint(1, 5))
            process.kill()
            error = process.stderr.read()
        assert process.returncode == -signal.SIGKILL, error
    with start(path, *run) as process:
        printed, error = process.communicate()
    assert process.returncode == 0, error
    *more, digest = printed.splitlines()
    assert len(more) > 0
    assert digest == expected
    assert os.listdir(tmp_path) == ["run.ckpt"]
    # Each process went on where the one before it was killed: at most a slice is done twice.
    first = [line for line in lines if line.startswith("0 ")]
    assert len(first) <= len(set(first)) + KILLS


def test_no_executor_and_no_backend_is_left_out():
    """Where CuPy cannot run, its executors cannot."""
    runs = killed_run.runs()
    assert ("cupy" in {backend for _, backend, _ in runs}) == (NO_CUPY is None)
    if NO_CUPY is None:
        assert {executor for _, _, executor in runs} == set(EXECUTORS)


# ---- Ctrl-C and other ends -----------------------------------------------------------------------


class Act:
    """Does something at the n-th slice, counted from 1."""

    def __init__(self, n, act):
        self.n, self.act = n, act

    def on_slice(self, run):
        self.n -= 1
        if self.n == 0:
            self.act(run)


class PowerCutError(Exception):
    """What tests end a run with."""


def raise_(run):
    raise PowerCutError


def cut_off(net, path, n, *data, callbacks=(), **options):
    """Train, with a checkpoint after each slice, and stop before the n-th one is written."""
    with pytest.raises(PowerCutError):
        net.fit(
            *data, checkpoint=path, every=0, callbacks=[*callbacks, Act(n, raise_)], **options
        )  # fmt: skip


def interrupt(run):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("control_c")
def test_control_c_loses_nothing(tmp_path):
    """Though the last checkpoint is long ago, the one at Ctrl-C has the slice under way."""
    alone, cut, resumed = make(), make(), make(rng=1)
    alone.fit(X, LABELS, epochs=3)
    path, seen = tmp_path / "run.ckpt", []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(X, LABELS, epochs=3, checkpoint=path, callbacks=[Act(7, interrupt)])
    assert signal.getsignal(signal.SIGINT) is before
    assert cut.history.stopped == "interrupted"
    first = Act(1, lambda run: seen.append((run.epoch, run.rows_done)))
    resumed.fit(X, LABELS, epochs=3, resume=path, callbacks=[first])
    assert seen == [(1, 96)]  # 5 slices of 32 rows make an epoch; 7 had been done
    assert state(resumed) == state(alone)


@pytest.mark.usefixtures("control_c")
def test_control_c_at_an_epochs_end(tmp_path):
    class AtEnd:
        def on_epoch_end(self, run):
            interrupt(run)

    alone, cut, resumed = make(), make(), make(rng=1)
    alone.fit(X, LABELS, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(X, LABELS, epochs=3, checkpoint=tmp_path / "run.ckpt", callbacks=[AtEnd()])
    assert cut.history.epoch == [0]
    resumed.fit(X, LABELS, epochs=3, resume=tmp_path / "run.ckpt")
    assert state(resumed) == state(alone)


@pytest.mark.usefixtures("control_c")
def test_a_second_control_c_comes_through_at_once(tmp_path):
    after = []

    def twice(run):
        interrupt(run)
        interrupt(run)
        after.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        make().fit(X, LABELS, checkpoint=tmp_path / "run.ckpt", callbacks=[Act(3, twice)])
    assert after == []
    assert os.listdir(tmp_path) == []


def test_in_a_thread_signals_are_left_alone(tmp_path):
    before, seen = signal.getsignal(signal.SIGINT), []
    look = Act(2, lambda run: seen.append(signal.getsignal(signal.SIGINT)))
    fit = {"epochs": 1, "checkpoint": tmp_path / "run.ckpt", "callbacks": [look]}
    thread = threading.Thread(target=make().fit, args=(X, LABELS), kwargs=fit)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_run_that_has_ended_is_not_trained_again(tmp_path):
    path = tmp_path / "run.ckpt"
    nets = [make(), make(rng=1)]
    seen = []
    look = Act(1, lambda run: seen.append("a slice"))
    for net in nets:
        net.fit(
            X, LABELS, epochs=2, checkpoint=path, resume=True, callbacks=[look] * (net is nets[1])
        )
    assert seen == []
    assert state(nets[0]) == state(nets[1])


def test_a_run_that_has_ended_can_be_made_longer(tmp_path):
    path, alone, longer = tmp_path / "run.ckpt", make(), make(rng=1)
    options = {"validation": (X[:9], LABELS[:9]), "early_stopping": 5, "checkpoint": path}
    make().fit(X, LABELS, epochs=2, **options)
    longer.fit(X, LABELS, epochs=5, resume=True, **options)
    options.pop("checkpoint")
    alone.fit(X, LABELS, epochs=5, **options)
    assert state(alone) == state(longer)


def test_early_stopping_and_stop_have_ended_a_run(tmp_path):
    path = tmp_path / "run.ckpt"
    options = {"epochs": 9, "optimizer": gb.SGD(1.0), "checkpoint": path, "resume": True}
    early = {"early_stopping": gb.EarlyStopping(2, min_delta=9.0), **options}
    nets = [make(), make(rng=1)]
    for net in nets:
        net.fit(X, LABELS, **early)
        assert net.history.epoch == [0, 1, 2]
        assert net.history.stopped == "early_stopping"
    assert state(nets[0]) == state(nets[1])
    path.unlink()
    nets = [make(), make(rng=1)]
    for net in nets:
        net.fit(X, LABELS, callbacks=[Act(8, lambda run: run.stop())], **options)
        assert net.history.samples == [150, 150 + 96]
    assert state(nets[0]) == state(nets[1])


def test_a_run_that_diverges_diverges_again(tmp_path):
    """The parameters from before that epoch come back in the resumed run too."""
    path, nets = tmp_path / "run.ckpt", [make(), make(rng=1)]
    wild = {"epochs": 4, "optimizer": gb.SGD(lambda epoch: 0.1 if epoch < 1 else 1e30, l2=1.0)}
    with pytest.raises(gb.DivergenceError) as first:
        nets[0].fit(X, LABELS, checkpoint=path, every=0, **wild)
    with pytest.raises(gb.DivergenceError) as second:
        nets[1].fit(X, LABELS, resume=path, **wild)
    assert str(first.value) == str(second.value)
    assert_array_equal(nets[0]._parameters.flat, nets[1]._parameters.flat)
    assert np.isfinite(nets[1]._parameters.flat).all()


# ---- how often -----------------------------------------------------------------------------------


@pytest.fixture
def writes(monkeypatch):
    """The times at which checkpoints were written, as (epoch, rows_done)."""
    seen, real = [], storage.save

    def save(*arguments, **options):
        run = json.loads(options["text"]["run"])
        seen.append((run["epoch"], run["rows_done"]))
        return real(*arguments, **options)

    monkeypatch.setattr(storage, "save", save)
    return seen


class Clock:
    """Stands still, and moves ten seconds on at each slice."""

    now = 0.0

    def __call__(self):
        return self.now

    def on_slice(self, run):
        self.now += 10.0


SLICES = [32, 64, 96, 128, 150]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("epoch", [(1, 0), (2, 0)]),
        (0, [(0, n) for n in SLICES] + [(1, 0)] + [(1, n) for n in SLICES] + [(2, 0)]),
        (1e6, [(2, 0)]),
        (30, [(0, 96), (1, 32), (1, 128), (2, 0)]),
        (None, [(1, 32), (2, 0)]),
    ],
)
def test_how_often_it_is_written(every, expected, writes, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("gpubackprop.checkpoints.time.monotonic", clock)
    make().fit(
        X, LABELS, epochs=2, checkpoint=tmp_path / "run.ckpt", every=every, callbacks=[clock]
    )
    assert writes == expected


def test_nothing_is_written_without_checkpoint(writes, tmp_path):
    cut_off(make(), tmp_path / "run.ckpt", 3, X, LABELS)
    n = len(writes)
    make().fit(X, LABELS, resume=tmp_path / "run.ckpt")
    assert len(writes) == n


# ---- what does not fit ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """A checkpoint from the middle of a run."""
    path = tmp_path_factory.mktemp("taken") / "run.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "_SLICE_SECONDS", 0.0)
        cut_off(make(), path, 7, X, LABELS, **RUN)
    return path


RUN = {
    "epochs": 3, "optimizer": gb.SGD(gb.Step(0.1, 2)), "sample_weight": W,
    "validation": (X[:9], LABELS[:9]),
}  # fmt: skip
CHANGED = X.copy()
CHANGED[77, 1000] += 1
#: What is given otherwise, and what the error says.
OTHER = {
    "X": ({"X": CHANGED}, "was made with other values of X; give what it was made with"),
    "number of rows": (
        {"X": X[:149], "Y": LABELS[:149], "sample_weight": W[:149]}, "other values of X"
    ),
    "Y": ({"Y": np.roll(LABELS, 1)}, "other values of Y"),
    "weights": ({"sample_weight": W[::-1]}, "other values of sample_weight"),
    "no weights": ({"sample_weight": None}, "made with sample_weight, got none"),
    "batches": ({"X": gb.Batches(batches), "Y": None, "sample_weight": None}, "other values of X"),
    "batch_size": ({"batch_size": 16}, "made with batch_size 32, got 16"),
    "optimizer": ({"optimizer": "adam"}, r"made with optimizer SGD.*, got Adam\("),
    "schedule": ({"optimizer": gb.SGD(gb.Step(0.1, 3))}, r"every=2.*got SGD.*every=3"),
    "shuffle": ({"shuffle": False}, "made with shuffle full, got False"),
    "trainable": ({"trainable": FROZEN}, "made with no trainable"),
    "validation": ({"validation": (X[1:10], LABELS[1:10])}, "other values of validation X"),
    "no validation": ({"validation": None}, "made with validation X, got none"),
    "early_stopping": ({"early_stopping": 3}, r"early_stopping None, got EarlyStopping\(patience"),
    "epochs": ({"epochs": 1}, "epochs must be 2 at least, as many as .* has begun, got 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_other_data_and_arguments_are_named(what, taken):
    given, message = OTHER[what]
    net = make(rng=1)
    before = state_before(net)
    with pytest.raises(ValueError, match=message):
        net.fit(**{"X": X, "Y": LABELS, **RUN, **given}, resume=taken)
    assert state_before(net) == before


def state_before(net):
    flat = net.backend.to_numpy(net._parameters.flat).tobytes()
    return flat, net.rng.bit_generator.state, net._dropout_seed, net.history


NETWORKS = {
    "sizes": ({"sizes": (N_IN, 6, 3)}, r"of another network: sizes \(2048, 5, 3\), got"),
    "dtype": ({"dtype": "float64"}, "of another network: dtype float32, got float64"),
    "activation": ({"hidden": "relu"}, "of another network: activations"),
    "dropout": ({"dropout": 0.5}, "of another network: dropout"),
}


@pytest.mark.parametrize("what", NETWORKS)
def test_another_network_is_named(what, taken):
    options, message = NETWORKS[what]
    with pytest.raises(ValueError, match=message):
        make(**options).fit(X, LABELS, resume=taken, **RUN)


def test_the_same_data_in_other_hands_are_the_same(taken, tmp_path):
    """As float64, as a list, in Fortran's order, as a file: the network sees the same numbers."""
    alone, np_file = make(), tmp_path / "X.npy"
    alone.fit(X, LABELS, **RUN)
    np.save(np_file, X)
    for data in (X.astype("f8"), np.asfortranarray(X), X.tolist()):
        net = make(rng=1)
        net.fit(data, LABELS.astype("f8"), resume=taken, **RUN)
        assert state(net) == state(alone)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path or None, got 3"),
        ({"every": 5}, ValueError, "give both, got 5"),
        ({"checkpoint": "a", "every": "day"}, ValueError, "or 'epoch', got 'day'"),
        ({"checkpoint": "a", "every": -1}, ValueError, ">= 0 or 'epoch', got -1"),
        ({"checkpoint": "a", "every": float("nan")}, ValueError, ">= 0 or 'epoch', got nan"),
        ({"checkpoint": "a", "every": True}, TypeError, "got True"),
        ({"checkpoint": "a", "every": [1]}, TypeError, r"got \[1\]"),
        ({"resume": True}, ValueError, "resume=True goes on from `checkpoint`"),
        ({"resume": None}, TypeError, "resume must be True, False or a path, got None"),
        ({"resume": "nowhere.ckpt"}, FileNotFoundError, "nowhere.ckpt"),
        ({"checkpoint": "nowhere/run.ckpt"}, FileNotFoundError, "nowhere"),
    ],
)  # fmt: skip
def test_bad_arguments(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        make().fit(X, LABELS, **options)
    assert os.listdir(tmp_path) == []


def test_a_schedule_whose_state_is_no_number_is_refused_before_any_work(tmp_path):
    class Strange(gb.Schedule):
        def begin(self):
            return {"seen": object()}

        def rate(self, epoch, state):
            return 0.1

    net = make()
    before = net._parameters.flat.copy()
    with pytest.raises(TypeError, match="a checkpoint can hold numbers and text, got <object"):
        net.fit(X, LABELS, optimizer=gb.SGD(Strange()), checkpoint=tmp_path / "run.ckpt")
    assert_array_equal(net._parameters.flat, before)


# ---- the file ------------------------------------------------------------------------------------


def test_it_opens_as_a_network(tmp_path):
    net, path = make(), tmp_path / "run.ckpt"
    net.schema = gb.Schema(labels=["a", "b", "c"])
    net.fit(X, LABELS, epochs=2, checkpoint=path)
    read = gb.load(path)
    assert read.schema.labels == ("a", "b", "c")
    assert_array_equal(read.predict(X), net.predict(X))
    # And goes on from there.
    read.fit(X, LABELS, epochs=2, resume=path)
    assert state(read) == state(net)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_checkpoints_of_earlier_versions_are_resumed(path, monkeypatch):
    """To rounding: another machine made them."""
    monkeypatch.syspath_prepend(path.parent)
    import make_files

    net = make_files.resumable(8)
    history = make_files.train(net, resume=path)
    assert history.epoch == [0, 1, 2]
    wanted = np.load(path.with_suffix(".weights.npy"))
    np.testing.assert_allclose(net.weights[1], wanted, rtol=1e-4, atol=1e-6)


def test_a_networks_file_is_no_checkpoint(tmp_path):
    make().save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"net.safetensors is no checkpoint: it holds a network"):
        make().fit(X, LABELS, resume=tmp_path / "net.safetensors")


def damaged(path, **changes):
    """Rewrite a checkpoint with some of its run's entries changed, or left out if None."""
    stored = storage.load(path)
    run = {**json.loads(stored.text["run"]), **changes}
    run = {name: value for name, value in run.items() if value is not None}
    container.write(path, stored.tensors, {**stored.text, "run": json.dumps(run)})


@pytest.mark.parametrize(
    "changes",
    [
        {"best_loss": "x"},
        {"steps": None},
        {"schedule": 3},
        {"epoch": "one"},
        {"generator": {}},
        {"generator": {"bit_generator": "PCG64"}},
        {"drawn": [1, {"bit_generator": "PCG64"}]},
    ],
)
def test_a_damaged_run_changes_nothing(changes, taken, tmp_path):
    path = tmp_path / "run.ckpt"
    path.write_bytes(taken.read_bytes())
    damaged(path, **changes)
    net = make(rng=1)
    before = state_before(net)
    with pytest.raises(ValueError, match=r"run.ckpt is damaged: its run"):
        net.fit(X, LABELS, resume=path, **RUN)
    assert state_before(net) == before


def test_a_checkpoint_in_which_tensors_are_missing(taken, tmp_path):
    stored, path = storage.load(taken), tmp_path / "run.ckpt"
    kept = {name: tensor for name, tensor in stored.tensors.items() if name != "run.before"}
    container.write(path, kept, stored.text)
    with pytest.raises(ValueError, match=r"damaged: it should hold run.before"):
        make().fit(X, LABELS, resume=path, **RUN)


def test_one_made_elsewhere_goes_on_here(cupy_backend, tmp_path):
    """To rounding: bits are the same on the same backend and executor alone."""
    alone, path = make(cupy_backend), tmp_path / "run.ckpt"
    alone.fit(X, LABELS, **RUN)
    cut_off(make(cupy_backend), path, 7, X, LABELS, **RUN)
    net = make("numpy", rng=1)
    net.fit(X, LABELS, resume=path, **RUN)
    assert net.history.backend == "numpy"
    np.testing.assert_allclose(net.history.loss, alone.history.loss, rtol=1e-4)


def test_the_executor_that_auto_chose_goes_on(tmp_path, monkeypatch):
    path, net = tmp_path / "run.ckpt", make(rng=1)
    cut_off(make(), path, 7, X, LABELS, executor="eager")
    monkeypatch.setattr("gpubackprop.executors.choose", lambda job: pytest.fail("not asked"))
    net.fit(X, LABELS, resume=path)
    assert net.history.executor == "eager"


def test_what_a_killed_process_left_behind_is_removed(tmp_path):
    (tmp_path / ".run.ckpt.abc.partial").write_bytes(b"half")
    make().fit(X, LABELS, epochs=1, checkpoint=tmp_path / "run.ckpt")
    assert os.listdir(tmp_path) == ["run.ckpt"]


def test_a_network_that_was_resumed_pickles(taken):
    net = make()
    net.fit(X, LABELS, resume=taken, **RUN)
    assert state(pickle.loads(pickle.dumps(net))) == state(net)
