"""The estimators read arrays and frames of other libraries: on a GPU without leaving it."""

import numpy as np
import pytest

pytest.importorskip("sklearn.callback")
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris

from gpubackprop.sklearn import MLPClassifier, MLPRegressor
from gpubackprop.sklearn.engine import Engine

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = load_iris(return_X_y=True)
X, Y = X[::3], Y[::3]
NAMES = list("abcd")


def made(cls=MLPClassifier, **parameters):
    return cls(**{"hidden_layer_sizes": 5, "max_iter": 3, "random_state": 0, **parameters})


class Interface:
    """An array of an unknown library that has CUDA's array interface, and nothing else."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


class Capsule:
    """The same with DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Tensor:
    """PyTorch's tensor on a GPU, with a gradient: it can be read once it is detached."""

    def __init__(self, array, detached=False):
        self.array, self.detached = array, detached

    @property
    def __cuda_array_interface__(self):
        if not self.detached:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")
        return self.array.__cuda_array_interface__

    def detach(self):
        return Tensor(self.array, detached=True)

    def cpu(self):
        return self

    def numpy(self):
        return self.array.get()


Tensor.__module__ = "torch"


class Frame:
    """A cuDF frame: names, and columns that are on the GPU."""

    def __init__(self, array):
        self.array, self.shape, self.columns = array, array.shape, NAMES

    def to_cupy(self):
        return self.array.copy()

    def head(self, n):
        return Frame(self.array[:n])

    def to_pandas(self):
        pandas = pytest.importorskip("pandas", reason="the stand-in for cuDF makes pandas frames")
        return pandas.DataFrame(self.array.get(), columns=NAMES)


Frame.__module__ = "cudf.core"
KINDS = {"cupy": lambda array: array, "interface": Interface, "capsule": Capsule,
         "torch": Tensor, "cudf": Frame}  # fmt: skip


@pytest.fixture
def sources(monkeypatch):
    """Return a list of every X that an estimator trained on or predicted from."""
    seen, source = [], Engine.source

    def watched(self, X, *rest):
        seen.append(X)
        return source(self, X, *rest)

    monkeypatch.setattr(Engine, "source", watched)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_arrays_on_a_gpu_stay_there(kind, solver, cupy_backend, sources):
    array = cupy_backend.xp.asarray(X)
    given = KINDS[kind](array)
    model = made(solver=solver, backend="cupy").fit(given, cupy_backend.xp.asarray(Y))
    expected = made(solver=solver, backend="cupy").fit(X, Y)
    assert_array_equal(model.coefs_[0], expected.coefs_[0])
    assert_array_equal(model.predict_proba(given), expected.predict_proba(X))
    assert isinstance(model.predict(given), np.ndarray)
    there = [x for x in sources if cupy_backend.owns(x)]
    assert len(there) == 3
    if kind != "cudf":  # whose columns lie apart
        assert {x.data.ptr for x in there} == {array.data.ptr}
    else:
        assert model.feature_names_in_.tolist() == NAMES


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_on_a_gpu_are_copied_for_an_estimator_on_the_host(kind, cupy_backend):
    given = KINDS[kind](cupy_backend.xp.asarray(X))
    expected = made(backend="numpy").fit(X, Y)
    model = made(backend="numpy").fit(given, Y)
    assert_array_equal(model.coefs_[0], expected.coefs_[0])
    assert_array_equal(model.predict(given), expected.predict(X))


def test_what_else_takes_data_takes_it_from_a_gpu(cupy_backend):
    """Early stopping's split, validation data, partial_fit, weights, several outputs."""
    xp = cupy_backend.xp
    there, w = xp.asarray(X), np.linspace(0.5, 2, len(X))
    targets = np.c_[Y, Y + 1.0]
    parts = []
    for data, weights in ((X, w), (there, xp.asarray(w))):
        stopped = made(early_stopping=True, backend="cupy").fit(data, Y, weights)
        watched = made(MLPRegressor, backend="cupy")
        watched.fit(data, targets, validation_data=(data, targets, weights))
        going = made(MLPRegressor, backend="cupy").partial_fit(data, Y).partial_fit(data, Y)
        parts.append([
            *stopped.coefs_, stopped.validation_scores_, *watched.coefs_,
            watched.validation_loss_curve_, *going.coefs_, stopped.score(data, Y),
        ])  # fmt: skip
    for one, other in zip(*parts, strict=True):
        assert_array_equal(one, other)


def test_numbers_of_any_type_on_a_gpu(cupy_backend):
    xp = cupy_backend.xp
    for dtype, computed in (("float32", "float32"), ("int32", "float64"), ("float16", "float64")):
        there = xp.asarray(X.astype(dtype))
        model = made(backend="cupy").fit(there, Y)
        assert model.coefs_[0].dtype == computed
        host = made(backend="cupy").fit(X.astype(dtype), Y)
        assert_allclose(model.coefs_[0], host.coefs_[0], rtol=1e-6)
    assert made(backend="cupy", dtype="float32").fit(there, Y).coefs_[0].dtype == "float32"


def test_bad_data_on_a_gpu_is_refused(cupy_backend):
    xp = cupy_backend.xp
    bad = X.copy()
    bad[7, 1] = np.nan
    model = made(backend="cupy").fit(X, Y)
    for wrong, y, message in (
        (bad, Y, "row 7"),
        (X[:, 0], Y, "Reshape your data"),
        (X[:0], Y[:0], "Reshape your data|0 sample"),
        (X, Y[:-1], "inconsistent numbers of samples"),
    ):
        with pytest.raises(ValueError, match=message):
            made(backend="cupy").fit(xp.asarray(wrong), y)
    with pytest.raises(ValueError, match="row 7"):
        model.predict(xp.asarray(bad))
    with pytest.raises(ValueError, match="3 features, but MLPClassifier is expecting 4"):
        model.predict(xp.asarray(X[:, :3]))


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_tensors_on_the_host(library):
    reason = f"{library} is not installed"
    module = pytest.importorskip(library, reason=reason)
    tensor = module.asarray if library == "torch" else module.array
    given, expected = tensor(X.astype("float32")), made().fit(X.astype("float32"), Y)
    if library == "torch":
        given.requires_grad_()
    model = made().fit(given, tensor(Y))
    assert_array_equal(model.coefs_[0], expected.coefs_[0])
    assert_array_equal(model.predict(given), expected.predict(X.astype("float32")))


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.filterwarnings("error")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_frames(library):
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    frame = module.DataFrame({name: X[:, i] for i, name in enumerate(NAMES)})
    labels = module.Series(np.array(["no", "yes", "perhaps"])[Y].tolist())
    model = made().fit(frame, labels, validation_data=(frame, labels))
    assert model.feature_names_in_.tolist() == NAMES
    assert set(model.classes_) == {"no", "yes", "perhaps"}
    expected = made().fit(X, np.asarray(labels))
    assert_array_equal(model.predict(frame), expected.predict(X))
    assert_array_equal(model.coefs_[0], expected.coefs_[0])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)
    other = frame.rename({"a": "z"} if library == "polars" else str.upper, **(
        {} if library == "polars" else {"axis": 1}
    ))  # fmt: skip
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(other)
    regressor = made(MLPRegressor).fit(frame, frame[["a", "b"]])
    assert regressor.predict(frame).shape == (len(X), 2)
