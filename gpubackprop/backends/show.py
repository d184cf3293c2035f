"""Prints the CUDA of a kernel: ``python -m gpubackprop.backends.show sigmoid_delta``. Needs no
CuPy.
"""

import difflib
import itertools
import sys
from collections.abc import Iterator, Sequence

from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backends.base import RECORD
from gpubackprop.backends.cuda_printer import Kernel, dropout_kernel, to_kernel
from gpubackprop.expressions import Expression
from gpubackprop.losses import LOSSES, check_pair, pair
from gpubackprop.optimizers import OPTIMIZERS, SGD, Optimizer

_USAGE = "usage: python -m gpubackprop.backends.show [NAME]; without NAME it lists all names"


def kernels() -> dict[str, Kernel]:
    """Return the printed kernels by name: of every activation, loss and optimiser in the tables."""
    found = {expression.name: to_kernel(expression) for expression in expressions()}
    dropout = dropout_kernel()
    return {**found, dropout.name: dropout}


def expressions() -> list[Expression]:
    """Return the expressions of every activation, loss and optimiser in the tables."""
    return [*_of_activations(), *of_pairs(), *_of_optimizers(), RECORD]


def _of_activations() -> Iterator[Expression]:
    for activation in ACTIVATIONS.values():
        if activation.elementwise:
            yield from (activation.forward, activation.bias, activation.bias_keeping_z)
            yield from (activation.derivative, activation.delta)


def of_pairs() -> Iterator[Expression]:
    """Yield the losses, and deltas of the output, that go together and are elementwise."""
    for activation, loss in itertools.product(ACTIVATIONS.values(), LOSSES.values()):
        try:
            check_pair(activation, loss)
        except ValueError:
            continue
        joined = pair(activation, loss)
        yield from (part for part in (joined.loss, joined.delta) if part is not None)


def optimizers() -> list[Optimizer]:
    """Return one optimiser of every kind: names alone make one, SGD has some more."""
    made: list[Optimizer] = [kind() for kind in OPTIMIZERS.values()]  # type: ignore[call-arg]
    return [*made, SGD(0.1, momentum=0.9, l1=0.1, l2=0.1), SGD(0.1, momentum=0.9, nesterov=True)]


def _of_optimizers() -> Iterator[Expression]:
    for optimizer in optimizers():
        yield optimizer.expression
        if optimizer.penalty is not None:
            yield from (optimizer.penalty, optimizer.decay, optimizer.masked_decay)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one kernel, or the names of all of them.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command line without the program's name; by default the process's own.

    Returns
    -------
    int
        Exit status: 0, or 2 after a one-line error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) > 1 or given[:1] in (["-h"], ["--help"]):
        print(_USAGE, file=sys.stderr if len(given) > 1 else sys.stdout)
        return 2 if len(given) > 1 else 0
    known = kernels()
    if not given:
        print("\n".join(sorted(known)))
        return 0
    if given[0] not in known:
        close = difflib.get_close_matches(given[0], known, n=5)
        hint = f"; did you mean {', '.join(close)}?" if close else "; run it without a name for all"
        print(f"there is no kernel {given[0]!r}{hint}", file=sys.stderr)
        return 2
    print(known[given[0]])
    return 0


if __name__ == "__main__":
    sys.exit(main())
