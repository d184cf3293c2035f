"""Networks as files: what is written comes back, and nothing else is taken for one."""

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import close
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

import gpubackprop as gb
from gpubackprop import container

X = np.random.default_rng(3).standard_normal((5, 4))


def make(**options):
    options = {"hidden": ["tanh", "gelu"], "bias": [True, False, True], "dropout": 0.1, **options}
    return gb.Network([4, 5, 2, 3], rng=0, **options)


def test_every_backend_reads_what_every_backend_wrote(backend, dtype, tmp_path):
    net = make(backend=backend, dtype=dtype)
    net.save(tmp_path / "net.safetensors")
    for where in ("numpy", backend):
        read = gb.load(tmp_path / "net.safetensors", backend=where)
        assert read.model == net.model
        for ours, theirs in zip(read.weights, net.weights, strict=True):
            assert_array_equal(read.backend.to_numpy(ours), backend.to_numpy(theirs))
        assert [b is None for b in read.biases] == [False, True, False]


def test_the_file_is_plain_safetensors_without_padding(tmp_path):
    net = make(backend="numpy")
    net.save(tmp_path / "net.safetensors")
    tensors = load_file(tmp_path / "net.safetensors")
    shapes = {"W0": (5, 4), "W1": (2, 5), "W2": (3, 2), "b0": (5,), "b2": (3,)}
    assert {name: tensor.shape for name, tensor in tensors.items()} == shapes
    assert_array_equal(tensors["W1"], net.weights[1])


def test_formulas_of_ones_own_travel(tmp_path):
    softsign = gb.Activation("softsign", f="z / (c + fabs(z))", df="(1 - fabs(a)) ** 2", c=1.0)
    loss = gb.Loss("fourth_power", f="k * (o - y) ** 4", df="4 * k * (o - y) ** 3", k=0.25)
    net = gb.Network([4, 3, 2], softsign, softsign, loss, backend="numpy", rng=1)
    net.save(tmp_path / "net.safetensors")
    read = gb.load(tmp_path / "net.safetensors", backend="numpy")
    assert_array_equal(read.predict(X), net.predict(X))
    Y = np.ones((5, 2))
    assert read.loss(X, Y) == net.loss(X, Y)
    assert_array_equal(read.gradient(X, Y).flat, net.gradient(X, Y).flat)


SCHEMA = gb.Schema(["low", "middle", "high"], ["a", "b", "c", "d"], '{"any": "text é"}')


def test_labels_names_and_preprocessing_travel(backend, tmp_path):
    net = make(backend=backend)
    assert gb.Schema() == net.schema
    net.schema = SCHEMA
    net.save(tmp_path / "net.safetensors")
    for other in (
        net.copy(),
        pickle.loads(pickle.dumps(net)),
        gb.load(tmp_path / "net.safetensors"),
    ):
        assert other.schema == SCHEMA
    assert net.copy(backend="numpy", dtype="float64").schema == SCHEMA


def test_save_may_say_what_the_file_is_to_hold(tmp_path):
    net = make(backend="numpy")
    net.schema = gb.Schema(labels=["x", "y", "z"], preprocessing="{}")
    net.save(
        tmp_path / "net.safetensors", labels=[10, 20, 30], feature_names=np.array(list("abcd"))
    )
    read = gb.load(tmp_path / "net.safetensors").schema
    assert read == gb.Schema((10, 20, 30), ("a", "b", "c", "d"), "{}")
    assert net.schema.labels == ("x", "y", "z")


def test_a_schema_of_another_network_is_refused(tmp_path):
    net = make(backend="numpy")
    with pytest.raises(ValueError, match="labels must be 3, one for each output, got 2"):
        net.save(tmp_path / "net.safetensors", labels=["no", "yes"])
    with pytest.raises(ValueError, match=r"feature_names must be 4.*got 3"):
        net.schema = gb.Schema(feature_names=["a", "b", "c"])
    with pytest.raises(TypeError, match="schema must be a Schema, got 'no'"):
        net.schema = "no"
    assert os.listdir(tmp_path) == []


def test_a_network_that_was_read_trains(tmp_path):
    make(backend="numpy").save(tmp_path / "net.safetensors")
    runs = []
    for _ in range(2):
        net = gb.load(tmp_path / "net.safetensors", backend="numpy", rng=7)
        runs.append(net.fit(X, [0, 1, 2, 1, 0], batch_size=2, epochs=3).loss)
    assert runs[0] == runs[1]
    assert runs[0][-1] < runs[0][0]


# ---- files that are no networks ------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    make(backend="numpy").save(tmp_path / "net.safetensors")
    return (tmp_path / "net.safetensors").read_bytes()


def with_header(data, change):
    """Return the file with its header changed."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def with_model(data, **changes):
    """Return the file with its description of the network changed."""

    def change(header):
        text = header["__metadata__"]
        text["model"] = json.dumps({**json.loads(text["model"]), **changes})

    return with_header(data, change)


def version_2(data):
    return with_header(data, lambda header: header["__metadata__"].update(format_version="2"))


def of_another_program(data):
    return with_header(data, lambda header: header.update(__metadata__={"format": "pt"}))


BAD = {
    "empty": (lambda data: b"", "no safetensors file"),
    "text": (lambda data: b"a,b,target\n1,2,0\n" * 9, "no safetensors file"),
    "pickle": (lambda data: b"\x80\x04\x95" + bytes(60), "no safetensors file"),
    "cut in the header": (lambda data: data[:60], "truncated"),
    "cut in the numbers": (lambda data: data[:-3], "truncated"),
    "longer": (lambda data: data + b"abc", "damaged"),
    "header of huge length": (lambda data: b"\xff" * 7 + b"\x7f" + data[8:], "truncated"),
    "header not JSON": (lambda data: data[:9] + b"!" + data[10:], "damaged"),
    "newer": (version_2, "format version '2'.*upgrade"),
    "another program's": (of_another_program, "its format is 'pt'"),
    "sizes changed": (lambda data: with_model(data, sizes=[4, 5, 2, 4]), "damaged.*should hold"),
    "dtype changed": (
        lambda data: with_model(data, dtype="float64"),
        "damaged.*in F64, and holds.*in F32",
    ),
    "dtype foreign": (lambda data: with_model(data, dtype="object"), "damaged"),
    "formula with code": (
        lambda data: with_model(
            data,
            activations=[
                {"name": "bad", "f": "__import__('os').getcwd()", "df": "1", "parameters": {}}
            ]
            * 3,
        ),
        "damaged.*is not allowed",
    ),
    "layers without activations": (
        lambda data: with_model(data, activations=[]),
        "damaged.*0 activations for 3 layers",
    ),
    "sizes that no memory holds": (
        lambda data: with_model(data, sizes=[4, 10**15, 2, 3]),
        "damaged.*should hold W0 of shape .1000000000000000, 4.",
    ),
    "tensor that no memory holds": (
        lambda data: with_header(data, lambda header: header["W0"].update(shape=[10**9, 10**9])),
        "damaged.*holds W0 of shape .1000000000, 1000000000.",
    ),
    "offsets beyond the end": (
        lambda data: with_header(
            data, lambda header: header["W0"].update(data_offsets=[0, 10**18])
        ),
        "truncated",
    ),
    "overlapping tensors": (
        lambda data: with_header(data, lambda header: header["W1"].update(data_offsets=[0, 40])),
        "damaged",
    ),
    "negative size": (lambda data: with_model(data, sizes=[4, -5, 2, 3]), "damaged.*sizes"),
    "more tensors": (
        lambda data: with_header(
            data,
            lambda header: header.update(W9={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        ),
        "damaged.*no W9",
    ),
    "nested without end": (
        lambda data: struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995 + data,
        "damaged.*header cannot be read",
    ),
    "model nested without end": (
        lambda data: with_header(
            data, lambda header: header["__metadata__"].update(model="[" * 100_000)
        ),
        "damaged.*description",
    ),
    "formula that grows": (
        lambda data: with_model(
            data,
            activations=[
                {"name": "bad", "f": f"{'(' * 12}z{'**8)' * 12}", "df": "1", "parameters": {}}
            ]
            * 3,
        ),
        "damaged.*too long",
    ),
    "label twice": (
        lambda data: with_header(
            data,
            lambda header: header["__metadata__"].update(schema='{"labels": ["a", "a", "b"]}'),
        ),
        "damaged.*labels must differ",
    ),
    "labels of another network": (
        lambda data: with_header(
            data, lambda header: header["__metadata__"].update(schema='{"labels": ["a"]}')
        ),
        "damaged.*labels must be 3",
    ),
    "no model": (
        lambda data: with_header(data, lambda header: header["__metadata__"].pop("model")),
        "damaged",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_refused_with_the_reason(what, data, tmp_path):
    change, message = BAD[what]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(change(data))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"bad.safetensors.*{message}"):
            gb.load(path, backend="numpy")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_header_of_more_than_is_allowed_is_not_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 200_000_000) + b"{")
        file.truncate(200_000_100)  # takes no room on the disk
    with pytest.raises(ValueError, match=r"huge.safetensors is oversized: its header has"):
        gb.load(path)


def test_a_header_that_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "LARGEST_HEADER", 5000)
    with pytest.raises(ValueError, match="preprocessing must take less than 5,000 bytes"):
        make(backend="numpy").save(tmp_path / "net.safetensors", preprocessing="x" * 5000)
    assert os.listdir(tmp_path) == []


def test_a_missing_file():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gb.load("nowhere.safetensors")


# ---- writing -------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    make(backend="numpy").save(path)
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        gb.Network([2, 2], backend="numpy").save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_permissions_are_kept_or_usual(tmp_path):
    path = tmp_path / "net.safetensors"
    old = os.umask(0o022)
    try:
        make(backend="numpy").save(path)
        assert path.stat().st_mode & 0o777 == 0o644
        path.chmod(0o600)
        make(backend="numpy").save(path)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_without_safetensors_the_error_names_it():
    code = (
        "import sys; sys.modules['safetensors'] = None\n"
        "import gpubackprop as gb\n"
        "gb.Network([2, 2], backend='numpy').save('never')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: safetensors is not installed; install it with" in done.stderr


def test_the_version_is_written(data):
    length = struct.unpack("<Q", data[:8])[0]
    text = json.loads(data[8 : 8 + length])["__metadata__"]
    assert text["format"] == "gpubackprop"
    assert text["format_version"] == str(container.FORMAT_VERSION)


# ---- files of earlier versions -------------------------------------------------------------------

DATA = Path(__file__).parent / "data"
FILES = sorted(path for path in DATA.glob("*-*.safetensors") if "estimator" not in path.stem)


def test_there_are_files_of_the_first_version():
    assert {path.stem for path in FILES} >= {"classifier-1", "own_formulas-1"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_earlier_versions_are_read(path, backend, monkeypatch):
    monkeypatch.syspath_prepend(DATA)
    import make_files

    net = gb.load(path, backend=backend)
    made = make_files.NETWORKS[path.stem.rpartition("-")[0]]()
    assert net.model == made.model
    assert net.schema == made.schema
    outputs = net.backend.to_numpy(net.predict(make_files.X))
    close(outputs, np.load(path.with_suffix(".outputs.npy")), net.model.dtype)
    target = [0, 1, 2, 1, 0, 2, 0] if net.schema.labels else np.zeros((7, 2))
    before = net.loss(make_files.X, target)
    net.fit(make_files.X, target, epochs=20)
    assert net.loss(make_files.X, target) < before


# ---- crashes -------------------------------------------------------------------------------------

#: Where a process is killed while it writes, and whether the new file is there already.
CRASHES = {
    "before the first byte": ("tempfile.mkstemp", False, "before"),
    "half-way": ("safetensors.numpy.save_file", False, "half"),
    "before it is synced": ("os.fsync", False, "before"),
    "before it is renamed": ("os.replace", False, "before"),
    "after it was renamed": ("os.replace", True, "after"),
}
CRASH = """
import os, signal, sys, tempfile
import safetensors.numpy
import gpubackprop as gb
path, where, when = sys.argv[1:]
module, _, name = where.rpartition(".")
module = sys.modules[module]
real = getattr(module, name)
def dying(*arguments, **options):
    if when != "before":
        real(*arguments, **options)
    if when == "half":
        os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, name, dying)
gb.Network([2, 2], backend="numpy", rng=5).save(path)
"""


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_leaves_the_old_file_or_the_new_one(crash, tmp_path):
    where, done, when = CRASHES[crash]
    path = tmp_path / "net.safetensors"
    make(backend="numpy").save(path)
    died = subprocess.run([sys.executable, "-c", CRASH, str(path), where, when])
    assert died.returncode == -signal.SIGKILL
    assert gb.load(path).model.sizes == ((2, 2) if done else (4, 5, 2, 3))
    container.remove_partial(path)
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_only_what_was_left_of_this_file_is_removed(tmp_path):
    for name in (".a.x.partial", ".ab.x.partial", ".a.x", ".a[b].x.partial", "a"):
        (tmp_path / name).touch()
    container.remove_partial(tmp_path / "a")
    container.remove_partial(tmp_path / "a[b]")
    assert sorted(os.listdir(tmp_path)) == [".a.x", ".ab.x.partial", "a"]
