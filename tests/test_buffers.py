"""The workspace, and views of the flat buffer; the layout itself is in tests/test_model.py."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gpubackprop import ACTIVATIONS, LOSSES, backends
from gpubackprop.buffers import Gradient, Parameters, Workspace
from gpubackprop.model import Model

HOST = backends.get("numpy")


def model(names=("silu", "tanh", "softmax"), loss="cross_entropy", bias=True, dropout=(0.0, 0.0)):
    activations = tuple(ACTIVATIONS[name] for name in names)
    return Model((4, 5, 6, 3), activations, LOSSES[loss], (bias,) * 3, dropout, np.dtype("float32"))


def share(x, y):
    return np.shares_memory(x, y)


def every_array(ws):
    return [*ws.a, *ws.delta, ws.shifted, ws.row, ws.column]


# ---- parameters ----------------------------------------------------------------------------------


def test_views_write_into_the_buffer(backend):
    made = model()
    parameters = Parameters(made, backend.zeros(made.layout.size, made.dtype))
    parameters.weights[1][...] = 2
    parameters.biases[2][...] = 3
    flat = backend.to_numpy(parameters.flat)
    assert_array_equal(flat[32 : 32 + 30], [2] * 30)  # after W[0] of 20, padded to 32
    assert flat.sum() == 2 * 30 + 3 * 3
    assert parameters.flat_weights.size == 32 + 32 + 32
    assert_array_equal(backend.to_numpy(parameters.flat_weights), flat[:96])


def test_without_biases():
    made = model(bias=False)
    parameters = Parameters(made, np.zeros(made.layout.size, "float32"))
    assert parameters.biases == [None] * 3
    assert [array.shape for array in parameters.arrays()] == [(5, 4), (6, 5), (3, 6)]
    assert made.layout.size == made.layout.n_weights == 96
    assert Gradient(made, parameters.flat).vector().shape == (20 + 30 + 18,)


def test_repr():
    made = model()
    parameters = Parameters(made, np.zeros(made.layout.size, "float32"))
    assert repr(parameters) == "<Parameters of a 4-5-6-3 network, float32>"


# ---- workspace -----------------------------------------------------------------------------------


def test_shapes():
    ws = Workspace(model(), 7, HOST)
    for arrays in (ws.z, ws.a, ws.h, ws.delta):
        assert [array.shape for array in arrays] == [(7, 5), (7, 6), (7, 3)]
    assert (ws.shifted.shape, ws.row.shape, ws.column.shape) == ((7, 3), (7, 1), (7, 1))
    assert all(array.dtype == np.float32 for array in every_array(ws))


def test_only_z_and_a_and_h_share_memory():
    """z where it is not read again, h where nothing is dropped."""
    ws = Workspace(model(dropout=(0.0, 0.5)), 7, HOST)
    assert [share(z, a) for z, a in zip(ws.z, ws.a, strict=True)] == [False, True, True]
    assert [share(h, a) for h, a in zip(ws.h, ws.a, strict=True)] == [True, False, True]
    assert [mask is None for mask in ws.mask] == [True, False, True]
    arrays = every_array(ws)
    for i, array in enumerate(arrays):
        assert not any(share(array, other) for other in arrays[:i])


def test_keep_keeps_every_z():
    ws = Workspace(model(), 7, HOST, keep=True)
    assert not any(share(z, a) for z, a in zip(ws.z, ws.a, strict=True))


def test_compact_puts_a_delta_where_the_a_above_it_was():
    """Where that has room: 5 and 6 units do, 6 and 3 do not."""
    ws = Workspace(model(), 7, HOST, compact=True)
    assert [array.shape for array in ws.delta] == [(7, 5), (7, 6), (7, 3)]
    assert all(array.flags.c_contiguous for array in ws.delta)
    shared = {(d, a) for d in range(3) for a in range(3) if share(ws.delta[d], ws.a[a])}
    assert shared == {(0, 1)}
    assert not share(ws.delta[0], ws.delta[1])


@pytest.mark.parametrize("n", [1, 3, 6])
def test_rows_are_the_first_rows_of_every_array(n):
    whole = Workspace(model(dropout=(0.5, 0.0)), 7, HOST)
    view = whole.rows(n)
    assert view.n_rows == n
    pairs = [(view.mask[0], whole.mask[0]),
             *zip(every_array(view), every_array(whole), strict=True),
             *zip(view.z, whole.z, strict=True), *zip(view.h, whole.h, strict=True)]  # fmt: skip
    for part, array in pairs:
        assert part.shape == (n, *array.shape[1:])
        array[:n], array[n:] = 1, 2
        assert (part == 1).all()
        assert share(part, array)
    assert view.mask[1:] == [None, None]
    # What is one array in the whole is one in the view, where `layer` asks for identity.
    assert view.rows(1).rows(1) is view.rows(1)
    assert view.rows(n) is view is whole.rows(n)


def test_layers_see_that_z_and_a_are_one_array():
    """`Backend.layer` tells by identity, in a view of some rows too."""
    whole = Workspace(model(), 7, HOST)
    for ws in (whole, whole.rows(3)):
        assert [z is a for z, a in zip(ws.z, ws.a, strict=True)] == [False, True, True]


# ---- model ---------------------------------------------------------------------------------------


def test_models_refuse_what_cannot_be_trained():
    with pytest.raises(ValueError, match="hidden activation 'softmax' works on whole rows"):
        model(names=("tanh", "softmax", "softmax"))
    with pytest.raises(ValueError, match="loss 'cross_entropy' needs output 'softmax', got 'tanh'"):
        model(names=("tanh", "tanh", "tanh"))
