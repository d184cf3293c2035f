"""Models, the layout of their parameters, buffers and dropout keys."""

import itertools
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gpubackprop import backends, dropout
from gpubackprop.arguments import build_model
from gpubackprop.buffers import Gradient, Parameters, Workspace
from gpubackprop.model import ALIGNMENT, layout


def model(sizes=(4, 5, 3), hidden="tanh", output="softmax", loss=None, bias=True, drop=0.0):
    return build_model(sizes, hidden, output, loss, bias, drop, "float64")


# ---- layout --------------------------------------------------------------------------------------


def test_all_weights_then_all_biases_each_aligned():
    found = layout((4, 5, 3), (True, True))
    # 20 weights fill one unit of 32, 15 the next; biases of 5 and 3 one each.
    assert found.W == (0, 32)
    assert found.b == (64, 96)
    assert (found.n_weights, found.size) == (64, 128)
    assert found.shapes == ((5, 4), (3, 5))


def test_a_layer_without_biases_takes_no_room():
    found = layout((40, 40, 3), (False, True))
    assert found.b == (None, found.n_weights)
    assert found.size == found.n_weights + ALIGNMENT


@pytest.mark.parametrize("sizes", [(1, 1), (33, 7, 2), (3, 1, 1, 5)])
def test_arrays_do_not_overlap_and_cover_all_but_padding(sizes):
    made = model(sizes, output="identity")
    flat = np.zeros(made.layout.size)
    parameters = Parameters(made, flat)
    for array in parameters.arrays():
        array += 1
    counted = sum(n_out * n_in + n_out for n_in, n_out in itertools.pairwise(sizes))
    assert set(flat) <= {0.0, 1.0}
    assert flat.sum() == counted
    assert all(np.shares_memory(array, flat) for array in parameters.arrays())
    for start, stop in made.layout.gaps():
        flat[start:stop] += 1
    assert (flat == 1).all()


def test_a_gradient_as_a_vector_has_no_padding():
    made = model()
    gradient = Gradient(made, np.zeros(made.layout.size))
    for number, array in enumerate(gradient.arrays()):
        array[...] = number
    assert_array_equal(gradient.vector(), np.repeat([0, 1, 2, 3], [20, 15, 5, 3]))


# ---- model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "output", "loss", "kept"),
    [
        ("tanh", "softmax", None, (False, False)),
        ("silu", "softmax", None, (True, False)),
        ("gelu", "sigmoid", "log_loss", (True, True)),
        ("relu", "exp", "poisson", (False, True)),
        ("relu", "sigmoid", "squared", (False, False)),
        ("relu", "gelu", "squared", (False, True)),
    ],
)
def test_z_is_kept_where_it_is_read_again(hidden, output, loss, kept):
    made = model(hidden=hidden, output=output, loss=loss)
    assert made.keeps_z == kept
    workspace = Workspace(made, 2, backends.get("numpy"))
    assert tuple(z is not a for z, a in zip(workspace.z, workspace.a, strict=True)) == kept


def test_models_compare_hash_and_pickle():
    assert model() == model()
    assert hash(model()) == hash(model())
    assert model() != model(hidden="relu")
    again = pickle.loads(pickle.dumps(model(hidden="leaky_relu", drop=0.5)))
    assert again == model(hidden="leaky_relu", drop=0.5)
    assert again.layout == model().layout


# ---- workspace -----------------------------------------------------------------------------------


def test_fewer_rows_are_views_that_are_kept(backend):
    made = model(drop=0.25)
    workspace = Workspace(made, 6, backend)
    small = workspace.rows(2)
    assert small is workspace.rows(2)
    assert workspace.rows(6) is workspace
    assert [z.shape for z in small.z] == [(2, 5), (2, 3)]
    assert [m is None for m in small.mask] == [False, True]
    small.a[0][...] = 7
    assert_array_equal(backend.to_numpy(workspace.a[0])[:2], np.full((2, 5), 7.0))


def test_without_training_there_are_no_deltas_and_masks():
    workspace = Workspace(model(drop=0.5), 3, backends.get("numpy"), training=False)
    assert workspace.delta == []
    assert workspace.mask == [None, None]


# ---- dropout -------------------------------------------------------------------------------------


def test_mix_is_lowbias32():
    """Written as its author writes it, with 32-bit overflow."""

    def lowbias32(x):
        with np.errstate(over="ignore"):
            x = np.uint32(x)
            x ^= x >> np.uint32(16)
            x *= np.uint32(0x7FEB352D)
            x ^= x >> np.uint32(15)
            x *= np.uint32(0x846CA68B)
            x ^= x >> np.uint32(16)
        return int(x)

    for x in (0, 1, 2, 12345, 2**31, 2**32 - 1):
        assert dropout.mix(x) == lowbias32(x)


def test_keys_depend_on_seed_layer_and_step():
    keys = {
        dropout.key(seed, layer, step)
        for seed in range(3)
        for layer in range(3)
        for step in range(50)
    }
    assert len(keys) == 450
    assert all(0 <= key < 2**32 for key in keys)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_masks_keep_their_share_and_the_mean(backend, dtype, p):
    out = backend.empty((200, 300), dtype)
    mask = backend.to_numpy(backend.dropout_mask(dropout.key(1, 0, 0), p, 0, out))
    # Within five standard deviations of 60,000 independent draws.
    assert abs((mask == 0).mean() - p) <= 5 * np.sqrt(p * (1 - p) / mask.size)
    assert set(np.unique(mask)) <= {dtype.type(0), dtype.type(1 / (1 - p))}


def test_rows_of_a_slice_are_rows_of_the_batch(backend, dtype):
    whole, part = backend.empty((50, 7), dtype), backend.empty((20, 7), dtype)
    backend.dropout_mask(99, 0.4, 0, whole)
    backend.dropout_mask(99, 0.4, 30, part)
    assert_array_equal(backend.to_numpy(part), backend.to_numpy(whole)[30:])


def test_masks_are_the_same_bits_on_every_backend(backend, dtype):
    out = backend.empty((33, 9), dtype)
    backend.dropout_mask(4_000_000_000, 0.3, 2, out)
    expected = [
        [
            0.0 if dropout.mix((i + 2) * 9 + j ^ 4_000_000_000) < 0.3 * 2**32 else 1 / 0.7
            for j in range(9)
        ]
        for i in range(33)
    ]
    assert_array_equal(backend.to_numpy(out), np.array(expected, dtype))
