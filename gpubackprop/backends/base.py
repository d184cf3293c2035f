"""The plain backend: every operation, on any array module like NumPy, with no kernel of ours.

It is the oracle that the others are tested against and the baseline that the fused kernels are
measured against: readable, and never tuned.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpubackprop import dropout
from gpubackprop.activations import Activation
from gpubackprop.backends.turns import Turns
from gpubackprop.buffers import Workspace
from gpubackprop.expressions import Expression, to_python
from gpubackprop.model import Model
from gpubackprop.optimizers import Optimizer
from gpubackprop.types import Array

#: A step's loss joins the total; the first step whose loss is NaN or infinite is remembered.
RECORD = Expression(
    "record_loss",
    ("value",),
    {
        "first_bad": "where(first_bad < 0, where(value - value == 0, -1, step), first_bad)",
        "total": "total + value",
    },
    outputs=("total", "first_bad"),
    scalars=("step",),
)
_FLOAT64 = np.dtype(np.float64)
_KEPT = 512


class Backend:
    """Arrays of one module, and the operations of the delta rule on them.

    Parameters
    ----------
    name : str
        What the user asks for, such as ``"numpy"``.
    xp : module
        `numpy`, or a module with the same functions, such as `cupy`.
    """

    #: Whether arrays are NumPy arrays, in the host's memory.
    host = True
    #: Whether this is plain array arithmetic without kernels of ours.
    plain = True
    #: Of a GPU; 0 where there is none.
    multiprocessors = 0
    #: Whether `descend` is there.
    descends = False

    def __init__(self, name: str, xp: Any = np) -> None:
        self.name, self.xp = name, xp
        self._compiled: dict[Any, Callable[..., None]] = {}
        self._recent: dict[tuple[int, str], tuple[Callable[..., None], Expression]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        from gpubackprop.backends import rebuild  # the registry is above: found when it is needed

        return rebuild, (self.name,)

    # ---- memory ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make this backend's device current, and let overflow pass: a loss that is inf says so."""
        with np.errstate(all="ignore"):
            yield

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return x as an array of this backend; x itself if it is one of that dtype already."""
        return self.xp.asarray(x, dtype=dtype)

    def owns(self, x: object) -> bool:
        """Tell whether x is an array that lives here."""
        return isinstance(x, self.xp.ndarray)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return a NumPy array with x's values; on the host x itself. Waits for the device."""
        return np.asarray(x)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Return an array whose values are arbitrary."""
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Return an array of zeros."""
        return self.xp.zeros(shape, dtype)

    def copy(self, source: Array, out: Array) -> Array:
        """Copy between two arrays of this backend, casting; returns `out`."""
        out[...] = source
        return out

    def upload(self, source: np.ndarray, out: Array) -> Array:
        """Copy from the host's memory into `out`, casting; returns `out`."""
        out[...] = source
        return out

    def take_rows(self, X: Array, rows: Array, out: Array) -> Array:
        """Gather ``out[i] = X[rows[i]]``; returns `out`."""
        out[...] = X[rows]
        return out

    def one_hot(self, labels: Array, out: Array) -> Array:
        """Write 1 where the column is the row's label, else 0; returns `out`, (n, n_classes)."""
        out[...] = labels[:, None] == self.xp.arange(out.shape[1])
        return out

    def free_bytes(self) -> int | None:
        """Return how much memory the device has left; None where that is the host's own memory."""
        return None

    def release(self) -> None:
        """Give memory that is kept for later, and not in use, back to the device."""

    def turns(self) -> Turns:
        """Return sets of buffers to be filled from the host in turns."""
        return Turns()

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""

    def mark(self) -> Any:
        """Return a mark behind all that the device was given so far, for `wait`."""
        return None

    def wait(self, mark: Any) -> None:
        """Wait until the device has passed a mark. The host never waits for anything younger."""

    def describe(self) -> str:
        """Name the device."""
        return f"{self.xp.__name__} {self.xp.__version__}"

    # ---- expressions ----------------------------------------------------------------------------

    def elementwise(self, expression: Expression, dtype: np.dtype) -> Callable[..., None]:
        """Return the compiled form of an expression.

        Parameters
        ----------
        expression : Expression
        dtype : numpy.dtype
            float32 or float64: of the arrays, and of every number in the formulas.

        Returns
        -------
        callable
            Takes the expression's arguments, scalars and outputs, in that order, all arrays
            C-contiguous and of one shape. An output may be the same array as an argument.
        """
        # By identity first: hashing the formulas costs more than a pass over a small array.
        found = self._recent.get((id(expression), dtype.char))
        if found is None:
            key = expression.key, dtype.char
            if key not in self._compiled:
                self._compiled[key] = self.compile(expression, dtype)
            if len(self._recent) >= _KEPT:
                self._recent.clear()
            found = self._compiled[key], expression  # held, so that its id stays its own
            self._recent[id(expression), dtype.char] = found
        return found[0]

    def compile(self, expression: Expression, dtype: np.dtype) -> Callable[..., None]:
        """Compile an expression, as `elementwise` describes."""
        T = dtype.type
        lines = [f"def {expression.name}({', '.join(expression.signature)}):"]
        for target, node in expression.folded.statements:
            slot = f"{target}[...]" if target in expression.outputs else target
            text = to_python(node)
            if node.name in expression.outputs:  # what it holds now, not what it will hold
                text = f"xp.array({text})"
            lines.append(f"    {slot} = {text}")
        scope: dict[str, Any] = {"xp": self.xp, "T": T, "erf": self.erf}
        scope |= {name: T(value) for name, value in expression.folded.constants.items()}
        exec("\n".join(lines), scope)  # only names and operators that `parse` let through
        compiled: Callable[..., None] = scope[expression.name]
        return compiled

    def erf(self, x: Array) -> Array:
        """Return the error function of x."""
        return load_erf()(x)

    # ---- operations: forward ---------------------------------------------------------------------

    def matmul(self, A: Array, B: Array, out: Array) -> Array:
        """Return ``out = A @ B``; `out` must not overlap them."""
        return self.xp.matmul(A, B, out=out)

    def affine(self, a: Array, W: Array, b: Array | None, out: Array) -> Array:
        """Return ``out = a @ W.T + b``.

        Parameters
        ----------
        a : array of shape (n, n_in)
        W : array of shape (n_out, n_in)
        b : array of shape (n_out,) or None
        out : array of shape (n, n_out)
            Overwritten.
        """
        self.matmul(a, W.T, out=out)
        if b is not None:
            out += b
        return out

    def layer(
        self, a: Array, W: Array, b: Array | None, activation: Activation, z: Array, out: Array
    ) -> Array:
        """Pass a batch through one layer: ``z = a @ W.T + b``, ``out = f(z)``, f elementwise.

        Parameters
        ----------
        a : array of shape (n, n_in)
        W : array of shape (n_out, n_in)
        b : array of shape (n_out,) or None
        activation : Activation
        z, out : array of shape (n, n_out)
            Overwritten. They may be one array, which then holds ``f(z)``.
        """
        self.affine(a, W, b, z)
        if z is not out or not activation.linear:
            self.elementwise(activation.forward, z.dtype)(z, out)
        return out

    def softmax(self, z: Array, shifted: Array, row: Array, out: Array) -> Array:
        """Return the softmax of each row of z, without overflow.

        Parameters
        ----------
        z : array of shape (n, n_out)
        shifted : array of shape (n, n_out)
            Overwritten with z minus the largest of its row. May be z.
        row : array of shape (n, 1)
            Overwritten with the logarithm of the row's sum of ``exp(shifted)``.
        out : array of shape (n, n_out)
            Overwritten.
        """
        xp = self.xp
        xp.amax(z, axis=1, keepdims=True, out=row)
        xp.subtract(z, row, out=shifted)
        xp.exp(shifted, out=out)
        self.sum_rows(out, row)
        xp.divide(out, row, out=out)
        xp.log(row, out=row)
        return out

    def dropout_mask(self, key: int, p: float, first: int, out: Array) -> Array:
        """Write a dropout mask: 1 / (1 - p) where an output is kept, else 0.

        Parameters
        ----------
        key : int
            From `dropout.key`.
        p : float
            Chance of dropping, 0 <= p < 1.
        first : int
            Row in the batch of `out`'s first row.
        out : array of shape (n, n_out)
            Overwritten.
        """
        xp, one = self.xp, np.uint64
        x = xp.arange(out.size, dtype=np.uint64) + one(first * out.shape[1])
        x = (x & one(0xFFFFFFFF)) ^ one(key)
        for step, constant in dropout.MIX:
            if step == "xor_shift":
                x = x ^ x >> one(constant)
            else:
                x = x * one(constant) & one(0xFFFFFFFF)
        kept = x.reshape(out.shape) >= one(dropout.threshold(p))
        out[...] = xp.where(kept, out.dtype.type(1 / (1 - p)), out.dtype.type(0))
        return out

    def multiply(self, x: Array, y: Array, out: Array) -> Array:
        """Return ``out = x * y``, broadcast."""
        return self.xp.multiply(x, y, out=out)

    # ---- operations: loss and deltas -------------------------------------------------------------

    def loss(self, model: Model, ws: Workspace, Y: Array, w: Array | None, out: Array) -> Array:
        """Sum the loss over a batch that went forward.

        Parameters
        ----------
        model : Model
        ws : Workspace
            After `forward`. Its `shifted` and `column` are overwritten.
        Y : array of shape (n, n_out)
        w : array of shape (n,) or None
            Sample weights.
        out : float64 array of shape (1,)
            Overwritten with ``sum(w_i * loss_i)``.
        """
        xp, pair, terms = self.xp, model.pair, ws.shifted
        if pair.loss is None:
            # -sum(y log o) = log(sum exp(shifted)) sum(y) - sum(y shifted), and sum(y) = 1
            xp.multiply(ws.shifted, Y, out=terms)
            self.sum_rows(terms, ws.column)
            terms = xp.subtract(ws.row, ws.column, out=ws.column)
        else:
            self.elementwise(pair.loss, model.dtype)(ws.a[-1], ws.z[-1], Y, terms)
        if w is not None:
            if terms is not ws.column:
                terms = self.sum_rows(terms, ws.column)
            xp.multiply(terms, w[:, None], out=terms)
        return self.total(terms, out)

    def sum_rows(self, x: Array, out: Array) -> Array:
        """Sum each row of x into `out`, of shape (n, 1)."""
        return self.xp.sum(x, axis=1, keepdims=True, out=out)

    def total(self, x: Array, out: Array) -> Array:
        """Sum all elements in float64 into `out`, of shape (1,)."""
        self.xp.sum(x.reshape(-1), axis=0, keepdims=True, dtype=np.float64, out=out)
        return out

    def record(self, value: Array, step: int, total: Array, first_bad: Array) -> None:
        """Add a step's loss to the running total without waiting for the device.

        Parameters
        ----------
        value : float64 array of shape (1,)
        step : int
        total : float64 array of shape (1,)
            Increased by `value`.
        first_bad : float64 array of shape (1,)
            The first step whose value is NaN or infinite; -1 before there is one.
        """
        self.elementwise(RECORD, _FLOAT64)(value, float(step), total, first_bad)

    def add_penalty(self, w: Array, l1: float, l2: float, total: Array) -> None:
        """Add ``l1 * sum(|w|) + l2 / 2 * sum(w ** 2)`` to `total`, without waiting for the device.

        Parameters
        ----------
        w : array of shape (n,)
        l1, l2 : float
        total : float64 array of shape (1,)
        """
        xp = self.xp
        if l2:
            total += 0.5 * l2 * xp.dot(w, w).astype(np.float64)
        if l1:
            total += l1 * xp.sum(xp.abs(w), dtype=np.float64)

    def output_delta(
        self, model: Model, ws: Workspace, Y: Array, w: Array | None, scale: float
    ) -> Array:
        """Start the error on its way back: the output layer's ``delta = scale * w * dloss/dz``.

        Parameters
        ----------
        model : Model
        ws : Workspace
            After `forward`. The last of its deltas is overwritten and returned.
        Y : array of shape (n, n_out)
        w : array of shape (n,) or None
            Sample weights.
        scale : float
            1 / batch_size.
        """
        xp, o, delta = self.xp, ws.a[-1], ws.delta[-1]
        if model.pair.delta is not None:
            self.elementwise(model.pair.delta, model.dtype)(o, ws.z[-1], Y, scale, delta)
        else:  # softmax with an elementwise loss: delta = a * (e - sum(e * a)), e = scale * (o - y)
            self._softmax_delta(o, Y, scale, ws)
        if w is not None:
            xp.multiply(delta, w[:, None], out=delta)
        return delta

    def _softmax_delta(self, o: Array, Y: Array, scale: float, ws: Workspace) -> None:
        xp, e, delta = self.xp, ws.shifted, ws.delta[-1]
        xp.subtract(o, Y, out=e)
        xp.multiply(e, o.dtype.type(scale), out=e)
        xp.multiply(e, o, out=delta)
        self.sum_rows(delta, ws.column)
        xp.subtract(e, ws.column, out=delta)
        xp.multiply(delta, o, out=delta)

    def backprop(
        self,
        delta: Array,
        W: Array,
        activation: Activation,
        read: Array,
        mask: Array | None,
        out: Array,
    ) -> Array:
        """Carry the error one layer back: ``out = (delta @ W) * f'(z)``; times the dropout mask.

        Parameters
        ----------
        delta : array of shape (n, n_out)
            dL/dz of the layer above.
        W : array of shape (n_out, n_in)
            Weights of the layer above.
        activation : Activation
            Of this layer.
        read : array of shape (n, n_in)
            This layer's a (before dropout) or z, as `activation.reads` says.
        mask : array of shape (n, n_in) or None
            This layer's dropout mask.
        out : array of shape (n, n_in)
            Overwritten with dL/dz of this layer. Must not overlap `delta`.

        References
        ----------
        Rumelhart, Hinton and Williams, "Learning internal representations by error propagation",
        1986.
        """
        self.matmul(delta, W, out=out)
        if mask is not None:
            self.xp.multiply(out, mask, out=out)
        if not activation.linear:
            self.elementwise(activation.delta, out.dtype)(out, read, out)
        return out

    def gradient(self, delta: Array, a: Array, dW: Array, db: Array | None) -> None:
        """Write one layer's gradient: ``dW = delta.T @ a``, ``db = sum of delta over the rows``.

        Parameters
        ----------
        delta : array of shape (n, n_out)
        a : array of shape (n, n_in)
            What the layer read.
        dW : array of shape (n_out, n_in)
            Overwritten.
        db : array of shape (n_out,) or None
            Overwritten.
        """
        self.matmul(delta.T, a, out=dW)
        if db is not None:
            self.xp.sum(delta, axis=0, out=db)

    # ---- a whole step ----------------------------------------------------------------------------

    def descend(self, delta: Array, a: Array, rate: float, W: Array, b: Array | None) -> None:
        """Step ``W -= rate * delta.T @ a`` and ``b -= rate * sum of delta``, where `descends`.

        Parameters
        ----------
        delta : array of shape (n, n_out)
            Overwritten.
        a : array of shape (n, n_in)
        rate : float
        W : array of shape (n_out, n_in)
        b : array of shape (n_out,) or None
        """
        raise NotImplementedError

    def step(
        self,
        model: Model,
        optimizer: Optimizer,
        dropout_seed: int,
        *,
        penalised: bool = False,
        precision: str | None = None,
    ) -> Any:
        """Return a step that does all of an update's operations in fewer passes.

        Parameters
        ----------
        model : Model
        optimizer : Optimizer
        dropout_seed : int
        penalised : bool, optional
            Whether the penalties join the loss.
        precision : str, optional
            Of the products: a name in `gpubackprop.executors.base.PRECISIONS`.

        Returns
        -------
        gpubackprop.backends.cuda.step.Step or None
            None where an update is the operations one by one.
        """
        return None

    def lacks(self, precision: str) -> str | None:
        """Return why the device cannot multiply in a precision, in words; None if it can."""
        return f"the backend {self.name!r} multiplies in the dtype of its arrays alone"

    # ---- operations: update ----------------------------------------------------------------------

    def add(self, x: Array, out: Array) -> Array:
        """Return ``out += x``."""
        return self.xp.add(out, x, out=out)

    def clip_norm(self, g: Array, limit: float, cell: Array) -> None:
        """Scale a gradient down to an L2 norm of at most `limit`, in place and without waiting.

        Parameters
        ----------
        g : array of shape (n,)
        limit : float
            Above 0.
        cell : array of shape (1,), of g's dtype
            Scratch.
        """
        xp = self.xp
        # In float64: the square of a large float32 is infinite.
        squares = xp.square(g.astype(np.float64))
        cell[...] = xp.sqrt(xp.sum(squares))
        # A NaN norm stays NaN, so that the loss can tell.
        xp.maximum(cell, g.dtype.type(limit), out=cell)
        xp.divide(g.dtype.type(limit), cell, out=cell)
        xp.multiply(g, cell, out=g)

    def all_finite(self, x: Array, out: Array) -> None:
        """Write 1 into `out`, of shape (1,), if every element of x is a finite number, else 0."""
        out[...] = self.xp.isfinite(x).all()


@functools.cache
def load_erf() -> Callable[..., np.ndarray]:
    """Return a NumPy error function: SciPy's if it is installed, else `math.erf` on each element.

    NumPy itself has none. `math.erf` is as exact and tens of times slower.
    """
    try:
        from scipy.special import erf
    except Exception:  # absent, or broken
        loop = np.frompyfunc(math.erf, 1, 1)

        def elementwise_erf(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
            out = np.empty_like(x) if out is None else out
            np.copyto(out, loop(x), casting="unsafe")
            return out

        return elementwise_erf
    loaded: Callable[..., np.ndarray] = erf
    return loaded
