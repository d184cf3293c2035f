"""Writes a program for one small network, with every size in it as a number.

The weights are local variables, so that the compiler keeps them in registers. One sample at a time
(SGD) is straight code. Of a batch, the samples are the elements of vectors: up to `COLUMNS` of them
at once stand as columns of a buffer of inputs, outputs and deltas, one row for each unit. The
formulas are printed from the same expressions as everywhere. Compiling takes seconds for each new
network: it is done for long jobs of small networks, and then the program is there for short ones.
"""

import functools
import os
from collections.abc import Iterator

from gpubackprop.backprop import SLICE
from gpubackprop.executors.base import Job
from gpubackprop.executors.compiled import cache
from gpubackprop.executors.compiled.header import header
from gpubackprop.executors.compiled.printer import to_function
from gpubackprop.model import Model

#: Samples of a batch that are done at once.
COLUMNS = 64
#: What the compiled function reads from its one argument, in this order, and what it makes of each.
PARAMETERS = {
    "X": "numbers", "Y": "numbers", "order": "rows_at", "W": "codes", "b": "codes",
    "buffer": "numbers", "start": "", "stop": "", "batch_size": "", "scalars": "",
    "scalars_step": "", "batch": "", "sums": "doubles",
}  # fmt: skip
#: Sums that a loop over samples can hold in registers: this many units times inputs.
UNITS, INPUTS = 2, 4


#: A layer of more parameters gains nothing; a network of more takes too long to compile.
LAYER_PARAMETERS, PARAMETERS_IN_ALL = 64, 256
#: Seconds to compile the program for one sample or for batches, by parameter.
SECONDS = {True: 0.05, False: 0.15}
#: Seconds that it saves by sample, and what it must save: so many times what it takes to compile.
SAVED, WORTH = {True: 0.35e-6, False: 0.1e-6}, 4


def n_parameters(model: Model) -> list[int]:
    """Return the parameters of each layer."""
    return [m * (n + has) for (m, n), has in zip(model.layout.shapes, model.bias, strict=True)]


def can(job: Job, *, masked: bool) -> bool:
    """Tell whether a program for this network alone can do a job."""
    model, pair = job.model, job.model.pair
    return (
        job.batch_size is not None
        and job.batch_size <= SLICE
        and not (masked or job.weighted or any(model.dropout))
        and job.optimizer.plain
        and model.activations[-1].elementwise
        and None not in (pair.loss, pair.delta)
        and max(n_parameters(model)) <= LAYER_PARAMETERS
        and sum(n_parameters(model)) <= PARAMETERS_IN_ALL
    )


def is_wanted(job: Job) -> bool:
    """Tell whether the job is worth compiling the program.

    Whether it is there already plays no part: the same job must end in the same bits today and
    tomorrow. The environment variable GPUBACKPROP_FIXED = never or always decides instead.
    """
    chosen = os.environ.get("GPUBACKPROP_FIXED")
    if chosen in ("never", "always"):
        return chosen == "always"
    saved = (job.n_samples or 0) * job.epochs * SAVED[job.batch_size == 1]
    return saved >= WORTH * compile_seconds(job)


def compile_seconds(job: Job) -> float:
    """Return about how long it takes to compile the program."""
    return 1.0 + SECONDS[job.batch_size == 1] * sum(n_parameters(job.model))


def text_of(job: Job) -> str:
    """Return the program for a job that `can` be done by one."""
    return write_fixed(job.model, single=job.batch_size == 1)


def is_ready(job: Job) -> bool:
    """Tell whether the program need not be compiled."""
    return cache.is_ready(text_of(job))


@functools.lru_cache
def write_fixed(model: Model, *, single: bool) -> str:
    """Write the module for a network, for batches of one sample or of more."""
    network = _Network(model)
    body = network.one_by_one() if single else network.batches()
    arguments = ", ".join(PARAMETERS)
    decorator = '@njit("void(int64)", cache=True, nogil=True, error_model="numpy")'
    values = [
        f"{pointer}(r[{i}])" if pointer else f"r[{i}]"
        for i, pointer in enumerate(PARAMETERS.values())
    ]
    # 0 stands for the rows in their own order.
    values.append("r[2]")
    parts = [
        header(model.dtype.name),
        *network.formulas(),
        _function(f"@fast\ndef train({arguments}, ordered)", ["whole_vectors()", *body]),
        _function(
            f"{decorator}\ndef entry(run)",
            ["whole_vectors()", "r = codes(run)", f"train({', '.join(values)})"],
        ),
    ]
    return "\n\n\n".join(parts) + "\n"


def _function(head: str, lines: list[str]) -> str:
    return "\n    ".join([f"{head}:", *lines])


def _inside(head: str, lines: list[str]) -> list[str]:
    return [head, *(f"    {line}" for line in lines)]


def _groups(n: int, most: int) -> list[range]:
    return [range(i, min(i + most, n)) for i in range(0, n, most)]


class _Network:
    """Prints the parts of a program. Names: ``w1_2_0`` is W[1][2, 0], ``a1_2`` unit 2's input to
    layer 1, ``d`` deltas, ``g`` gradients.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.sizes = model, model.sizes
        self.layers = range(model.n_layers)

    def formulas(self) -> Iterator[str]:
        """Print the activations and the loss as functions of numbers."""
        for l, activation in enumerate(self.model.activations):
            yield to_function(f"f{l}", activation.forward, ("z",))
            yield to_function(f"back{l}", activation.delta, ("delta", activation.reads))
        pair = self.model.pair
        assert pair.loss is not None
        assert pair.delta is not None
        yield to_function("loss", pair.loss, ("o", "z", "y"))
        yield to_function("slope", pair.delta, ("o", "z", "y", "scale"))

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Return the name of each parameter, and where it stands."""
        for l in self.layers:
            n = self.sizes[l]
            for j in range(self.sizes[l + 1]):
                for q in range(n):
                    yield f"{l}_{j}_{q}", f"at_w{l}[{j * n + q}]"
                if self.model.bias[l]:
                    yield f"{l}_{j}_b", f"at_b{l}[{j}]"

    def _begin(self) -> list[str]:
        lines = []
        for l in self.layers:
            lines += [f"at_w{l}, at_b{l} = numbers(W[{l}]), numbers(b[{l}])"]
        return lines + [f"w{name} = {place}" for name, place in self.parameters()]

    def _end(self) -> list[str]:
        return [f"{place} = w{name}" for name, place in self.parameters()]

    def _forward(self) -> Iterator[str]:
        for l in self.layers:
            for j in range(self.sizes[l + 1]):
                terms = [f"w{l}_{j}_{q} * a{l}_{q}" for q in range(self.sizes[l])]
                terms = [f"w{l}_{j}_b", *terms] if self.model.bias[l] else terms
                yield f"z{l + 1}_{j} = {' + '.join(terms)}"
                yield f"a{l + 1}_{j} = f{l}(z{l + 1}_{j})"

    def _output(self) -> Iterator[str]:
        last = self.model.n_layers
        outputs = range(self.sizes[-1])
        arguments = [f"a{last}_{j}, z{last}_{j}, y_{j}" for j in outputs]
        yield f"value = {' + '.join(f'loss({one})' for one in arguments)}"
        for j in outputs:
            yield f"d{last}_{j} = slope({arguments[j]}, scale)"

    def _backward(self) -> Iterator[str]:
        for l in reversed(self.layers[1:]):
            reads = "z" if self.model.activations[l - 1].reads == "z" else "a"
            for q in range(self.sizes[l]):
                terms = [f"w{l}_{j}_{q} * d{l + 1}_{j}" for j in range(self.sizes[l + 1])]
                yield f"d{l}_{q} = back{l - 1}({' + '.join(terms)}, {reads}{l}_{q})"

    # ---- one sample at a time ---------------------------------------------------------------

    def one_by_one(self) -> list[str]:
        """Print the loop over samples."""
        n, m = self.sizes[0], self.sizes[-1]
        body = ["row = s", *_inside("if ordered != 0:", ["row = order[s]"])]
        body += [f"a0_{q} = X[row * {n} + {q}]" for q in range(n)]
        body += [f"y_{j} = Y[row * {m} + {j}]" for j in range(m)]
        body += ["rate = numbers(scalars + (s - start) * scalars_step)[0]"]
        body += [*self._forward(), *self._output(), *self._backward()]
        for l in self.layers:
            for j in range(self.sizes[l + 1]):
                body.append(f"step = rate * d{l + 1}_{j}")
                body += [f"w{l}_{j}_{q} -= step * a{l}_{q}" for q in range(self.sizes[l])]
                if self.model.bias[l]:
                    body.append(f"w{l}_{j}_b -= step")
        bad = "if sums[1] < 0 and not is_finite(float(value)):"
        body += ["sums[0] += value", *_inside(bad, ["sums[1] = batch + s - start"])]
        begin = [*self._begin(), "scale = T(1)"]
        return [*begin, *_inside("for s in range(start, stop):", body), *self._end()]

    # ---- batches ----------------------------------------------------------------------------

    def batches(self) -> list[str]:
        """Print the loop over batches."""
        names = [name for name, _ in self.parameters()]
        piece = _inside(f"for p in range(0, n, {COLUMNS}):", self._piece())
        batch = [
            "n = min(batch_size, stop - s)",
            "scale, total = T(1.0 / n), 0.0",
            *(f"g{name} = T(0)" for name in names),
            *piece,
            "rate = numbers(scalars + done * scalars_step)[0]",
            *(f"w{name} -= rate * g{name}" for name in names),
            "sums[0] += total",
            *_inside("if sums[1] < 0 and not is_finite(total):", ["sums[1] = batch + done"]),
            "done += 1",
            "s += n",
        ]
        begin = [*self._begin(), "s, done = start, 0"]
        return [*begin, *_inside("while s < stop:", batch), *self._end()]

    def places(self) -> dict[str, int]:
        """Return where the rows of the buffer begin, by the name of what stands there."""
        names = [f"a{l}_{q}" for l in self.layers for q in range(self.sizes[l])]
        names += [f"d{l + 1}_{j}" for l in self.layers for j in range(self.sizes[l + 1])]
        names += [f"y_{j}" for j in range(self.sizes[-1])]
        return {name: i * COLUMNS for i, name in enumerate(names)}

    def _piece(self) -> list[str]:
        """Print what is done with up to `COLUMNS` samples."""
        n, m, at = self.sizes[0], self.sizes[-1], self.places()
        read = ["row = s + p + i", *_inside("if ordered != 0:", ["row = order[s + p + i]"])]
        read += [f"buffer[{at[f'a0_{q}']} + i] = X[row * {n} + {q}]" for q in range(n)]
        read += [f"buffer[{at[f'y_{j}']} + i] = Y[row * {m} + {j}]" for j in range(m)]
        given = [f"a0_{q}" for q in range(n)] + [f"y_{j}" for j in range(m)]
        work = [f"{name} = buffer[{at[name]} + i]" for name in given]
        work += [*self._forward(), *self._output(), *self._backward(), "part += value"]
        made = [name for name in at if name not in given]
        work += [f"buffer[{at[name]} + i] = {name}" for name in made]
        lines = [f"k, part = min({COLUMNS}, n - p), T(0)"]
        lines += _inside("for i in range(k):", read)
        lines += [*_inside("for i in range(k):", work), "total += part"]
        for l in self.layers:
            lines += self._gradient(l, at)
        return lines

    def _gradient(self, l: int, at: dict[str, int]) -> Iterator[str]:
        """Print the sums over samples of a layer, some units and inputs at a time."""
        for units in _groups(self.sizes[l + 1], UNITS):
            for inputs in _groups(self.sizes[l], INPUTS):
                body = [f"x{q} = buffer[{at[f'a{l}_{q}']} + i]" for q in inputs]
                sums = []
                for j in units:
                    body.append(f"e = buffer[{at[f'd{l + 1}_{j}']} + i]")
                    if inputs[0] == 0 and self.model.bias[l]:
                        body.append(f"s{j}_b += e")
                        sums.append(f"{j}_b")
                    body += [f"s{j}_{q} += e * x{q}" for q in inputs]
                    sums += [f"{j}_{q}" for q in inputs]
                yield from (f"s{name} = T(0)" for name in sums)
                yield from _inside("for i in range(k):", body)
                yield from (f"g{l}_{name} += s{name}" for name in sums)


@functools.lru_cache
def buffer_size(model: Model) -> int:
    """Return how many numbers the buffer of a program holds."""
    return len(_Network(model).places()) * COLUMNS
