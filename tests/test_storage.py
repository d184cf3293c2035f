"""Networks as files: what is written comes back, and nothing else is taken for one."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

import gpubackprop as gb
from gpubackprop import storage

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
    "dtype changed": (lambda data: with_model(data, dtype="float64"), "damaged.*float32"),
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
    with pytest.raises(ValueError, match=f"bad.safetensors.*{message}"):
        gb.load(path, backend="numpy")


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
    assert text["format_version"] == str(storage.FORMAT_VERSION)
