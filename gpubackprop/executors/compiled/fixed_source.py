"""Writes a program for one small network, with every size in it as a number.

Everything is a vector (`lanes`), a local variable that the compiler keeps in registers: of one
sample (SGD) the units of a layer, of a batch some samples' numbers of one unit (`samples`). A
batch's gradient is summed up lane by lane, and over the lanes once. The formulas are printed from
the same expressions as everywhere. Which jobs get one, `fixed` decides.
"""

import functools
from collections.abc import Iterator

from gpubackprop.backprop import SLICE
from gpubackprop.executors.compiled.header import header
from gpubackprop.executors.compiled.lanes import lanes
from gpubackprop.executors.compiled.printer import to_function
from gpubackprop.executors.compiled.samples import samples, vector
from gpubackprop.model import Model

#: What the compiled function reads from its one argument, in this order, and what it makes of each.
PARAMETERS = {
    "X": "", "Y": "", "order": "rows_at", "W": "codes", "b": "codes", "memory": "",
    "start": "", "stop": "", "batch_size": "", "whole": "", "first": "", "last": "",
    "scalars": "", "scalars_step": "", "batch": "", "sums": "doubles",
}  # fmt: skip


@functools.lru_cache
def write_fixed(model: Model, *, single: bool) -> str:
    """Write the module for a network, for batches of one sample or of more."""
    network = _Network(model)
    body = network.one_by_one() if single else network.batches()
    arguments = ", ".join(PARAMETERS)
    decorator = '@cfunc("void(int64)", error_model="numpy")'
    values = [
        f"{pointer}(r[{i}])" if pointer else f"r[{i}]"
        for i, pointer in enumerate(PARAMETERS.values())
    ]
    # 0 stands for the rows in their own order.
    values.append("r[2]")
    dtype = model.dtype.name
    parts = [
        header(dtype) + lanes(dtype) + ("" if single else samples(dtype)),
        *network.formulas(),
        *network.readers(single=single),
        _function(f"@rounded\ndef train({arguments}, ordered)", ["whole_vectors()", *body]),
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


def _tree(terms: list[str]) -> str:
    """Print a sum of halves: the fewest steps one after the other."""
    if len(terms) <= 2:
        return " + ".join(terms)
    half = (len(terms) + 1) // 2
    return f"({_tree(terms[:half])}) + ({_tree(terms[half:])})"


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

    def readers(self, *, single: bool) -> list[str]:
        """Print what reads so many numbers at once, or samples."""
        if single:
            return [f"read_{n} = reading({n})" for n in sorted(set(self.sizes))]
        return [f"read_samples = sampling({self.sizes[0]}, {self.sizes[-1]})"]

    def parameters(self) -> list[tuple[str, str]]:
        """Return the name of each parameter, and where it stands."""
        found = []
        for l in self.layers:
            n = self.sizes[l]
            for j in range(self.sizes[l + 1]):
                found += [(f"{l}_{j}_{q}", f"at_w{l}[{j * n + q}]") for q in range(n)]
                if self.model.bias[l]:
                    found.append((f"{l}_{j}_b", f"at_b{l}[{j}]"))
        return found

    def _places(self) -> list[str]:
        return [f"at_w{l}, at_b{l} = numbers(W[{l}]), numbers(b[{l}])" for l in self.layers]

    def _reads(self, l: int) -> str:
        """Return the letter of what the f' of layer l's inputs reads."""
        return "z" if self.model.activations[l - 1].reads == "z" else "a"

    # ---- one sample at a time ---------------------------------------------------------------

    def one_by_one(self) -> list[str]:
        """Print the loop over samples: the units of a layer are the elements of vectors.

        W's columns and its rows both are, wherever errors go through it: the same numbers.
        """
        n, m, last = self.sizes[0], self.sizes[-1], self.model.n_layers
        body = ["row = s", *_inside("if ordered != 0:", ["row = order[s]"])]
        body += [f"a0, y = read_{n}(X + row * {n}), read_{m}(Y + row * {m})"]
        body += ["rate = numbers(scalars + (s - start) * scalars_step)[0]"]
        for l in self.layers:
            terms = [f"c{l}_{q} * element(a{l}, {q})" for q in range(self.sizes[l])]
            terms = [f"b{l}", *terms] if self.model.bias[l] else terms
            body += [f"z{l + 1} = {_tree(terms)}", f"a{l + 1} = f{l}(z{l + 1})"]
        body.append(f"value = sum_of(loss(a{last}, z{last}, y))")
        body.append(f"d{last} = slope(a{last}, z{last}, y, T(1))")
        for l in reversed(self.layers[1:]):
            terms = [f"r{l}_{j} * element(d{l + 1}, {j})" for j in range(self.sizes[l + 1])]
            body.append(f"d{l} = back{l - 1}({_tree(terms)}, {self._reads(l)}{l})")
        for l in self.layers:
            body += self._step(l)
        bad = "if sums[1] < 0 and not is_finite(float(value)):"
        body += ["sums[0] += value", *_inside(bad, ["sums[1] = batch + s - start"])]
        begin, end = self._begin(), self._end()
        return [*self._places(), *begin, *_inside("for s in range(start, stop):", body), *end]

    def _step(self, l: int) -> Iterator[str]:
        yield f"step = rate * d{l + 1}"
        for q in range(self.sizes[l]):
            yield f"c{l}_{q} = c{l}_{q} - step * element(a{l}, {q})"
        for j in range(self.sizes[l + 1] if l > 0 else 0):
            yield f"r{l}_{j} = r{l}_{j} - element(step, {j}) * a{l}"
        if self.model.bias[l]:
            yield f"b{l} = b{l} - step"

    def _begin(self) -> Iterator[str]:
        for l in self.layers:
            n, m = self.sizes[l], self.sizes[l + 1]
            for q in range(n):
                column = ", ".join(f"at_w{l}[{j * n + q}]" for j in range(m))
                yield f"c{l}_{q} = lanes(({column},))"
            for j in range(m if l > 0 else 0):
                yield f"r{l}_{j} = read_{n}(W[{l}] + {j * n})"
            if self.model.bias[l]:
                yield f"b{l} = read_{m}(b[{l}])"

    def _end(self) -> Iterator[str]:
        for l in self.layers:
            n, m = self.sizes[l], self.sizes[l + 1]
            for j in range(m):
                yield from (f"at_w{l}[{j * n + q}] = element(c{l}_{q}, {j})" for q in range(n))
                if self.model.bias[l]:
                    yield f"at_b{l}[{j}] = element(b{l}, {j})"

    # ---- batches ----------------------------------------------------------------------------

    def batches(self) -> list[str]:
        """Print the loop over batches.

        The parameters stand in the buffer, and behind them the gradient: whole vectors of them.
        """
        named, size = self.parameters(), self.packed()
        batch = [
            "n = min(batch_size, stop - s)",
            "scale, total = T(1.0 / (whole if whole != 0 else n)), no_loss()",
            *_inside("if first == 0:", [
                *_inside(f"for i in range({size}, {2 * size}):", ["buffer[i] = T(0)"]),
            ]),
            *_inside(f"for p in range(s, s + n, {SLICE}):", self._slice()),
            "loss_sum = sum_of(total)",
            "sums[0] += loss_sum",
            *_inside("if sums[1] < 0 and not is_finite(loss_sum):", ["sums[1] = batch + done"]),
            *_inside("if last != 0:", [
                "rate = numbers(scalars + done * scalars_step)[0]",
                *_inside(f"for i in range({size}):", [f"buffer[i] -= rate * buffer[{size} + i]"]),
            ]),
            "done += 1",
            "s += n",
        ]  # fmt: skip
        begin = [f"buffer[{i}] = {place}" for i, (_, place) in enumerate(named)]
        end = [f"{place} = buffer[{i}]" for i, (_, place) in enumerate(named)]
        loop = _inside("while s < stop:", batch)
        return [
            *self._places(),
            "buffer = numbers(memory)",
            *begin,
            "s, done = start, 0",
            *loop,
            *end,
        ]

    def packed(self) -> int:
        """Return how many numbers the parameters are as whole vectors."""
        whole = vector(self.model.dtype.name)
        return -(-len(self.parameters()) // whole) * whole

    def _slice(self) -> list[str]:
        """Print what is done with so many samples that their sums are exact enough."""
        n, m = self.sizes[0], self.sizes[-1]
        names = [f"g{name}" for name, _ in self.parameters()]
        given = ", ".join([*(f"a0_{q}" for q in range(n)), *(f"y_{j}" for j in range(m))])
        body = [
            f"{given} = read_samples(X, Y, ordered, i, end, stop)",
            "share = only(scale, end - i)",
            "read_anew()",
            *(f"w{name} = buffer[{i}]" for i, (name, _) in enumerate(self.parameters())),
            *self._forward(), *self._output(), *self._backward(),
            "total = total + widened(only(value, end - i))",
            *self._gradient(),
        ]  # fmt: skip
        return [
            f"end = min(p + {SLICE}, s + n)",
            *(f"{name} = zeros()" for name in names),
            *_inside("for i in range(p, end, LANES):", body),
            f"add_sums(memory + {self.packed()}, ({', '.join(names)},))",
        ]

    def _forward(self) -> Iterator[str]:
        for l in self.layers:
            for j in range(self.sizes[l + 1]):
                terms = [f"w{l}_{j}_{q} * a{l}_{q}" for q in range(self.sizes[l])]
                terms = [f"w{l}_{j}_b", *terms] if self.model.bias[l] else terms
                yield f"z{l + 1}_{j} = {' + '.join(terms)}"
                yield f"a{l + 1}_{j} = f{l}(z{l + 1}_{j})"

    def _output(self) -> Iterator[str]:
        last = self.model.n_layers
        arguments = [f"a{last}_{j}, z{last}_{j}, y_{j}" for j in range(self.sizes[-1])]
        yield f"value = {' + '.join(f'loss({one})' for one in arguments)}"
        for j, one in enumerate(arguments):
            yield f"d{last}_{j} = slope({one}, share)"

    def _backward(self) -> Iterator[str]:
        for l in reversed(self.layers[1:]):
            for q in range(self.sizes[l]):
                terms = [f"w{l}_{j}_{q} * d{l + 1}_{j}" for j in range(self.sizes[l + 1])]
                yield f"d{l}_{q} = back{l - 1}({' + '.join(terms)}, {self._reads(l)}{l}_{q})"

    def _gradient(self) -> Iterator[str]:
        for l in self.layers:
            for half in "low", "high":
                for q in range(self.sizes[l]):
                    yield f"x{q} = {half}(a{l}_{q})"
                for j in range(self.sizes[l + 1]):
                    yield f"e = {half}(d{l + 1}_{j})"
                    for q in range(self.sizes[l]):
                        yield f"g{l}_{j}_{q} = g{l}_{j}_{q} + e * x{q}"
                    if self.model.bias[l]:
                        yield f"g{l}_{j}_b = g{l}_{j}_b + e"


@functools.lru_cache
def buffer_size(model: Model) -> int:
    """Return how many numbers the buffer of a program holds."""
    return 2 * _Network(model).packed()
