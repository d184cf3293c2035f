"""What a network is, without its numbers: sizes, activations, loss, layout of the parameters."""

import itertools
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from gpubackprop.activations import ACTIVATIONS, Activation
from gpubackprop.losses import Loss, Pair, check_pair, pair

#: Every W[l] and b[l] starts at a multiple of this many elements: 128 bytes of float32, a GPU's
#: memory transaction.
ALIGNMENT = 32


@dataclass(frozen=True)
class Layout:
    """Where each W[l] and b[l] stands in the flat buffer: all W, then all b, zeros between.

    Attributes
    ----------
    shapes : tuple of (int, int)
        (n_out, n_in) of each layer.
    W, b : tuple of int
        First element of each W[l] and b[l]; None for a layer without biases.
    n_weights : int
        Elements of the part that holds the W, padding included: penalties and decay act on this
        part.
    size : int
        Elements in all, padding included.
    """

    shapes: tuple[tuple[int, int], ...]
    W: tuple[int, ...]
    b: tuple[int | None, ...]
    n_weights: int
    size: int

    def gaps(self) -> list[tuple[int, int]]:
        """Return where padding begins and ends."""
        starts = [*self.W, *(b for b in self.b if b is not None), self.size]
        lengths = [n_out * n_in for n_out, n_in in self.shapes]
        lengths += [
            n_out for (n_out, _), b in zip(self.shapes, self.b, strict=True) if b is not None
        ]
        ends = [start + n for start, n in zip(starts[:-1], lengths, strict=True)]
        return list(zip(ends, starts[1:], strict=True))


def layout(sizes: tuple[int, ...], bias: tuple[bool, ...]) -> Layout:
    """Lay out the parameters of a network.

    Parameters
    ----------
    sizes : tuple of int
        Units by layer, inputs first.
    bias : tuple of bool
        Whether each layer has biases.
    """

    def padded(n: int) -> int:
        return -(-n // ALIGNMENT) * ALIGNMENT

    shapes = tuple((n_out, n_in) for n_in, n_out in itertools.pairwise(sizes))
    lengths = [padded(n_out * n_in) for n_out, n_in in shapes]
    lengths += [padded(n_out) * has for (n_out, _), has in zip(shapes, bias, strict=True)]
    starts = [0, *itertools.accumulate(lengths)]
    n = len(shapes)
    b = tuple(start if has else None for start, has in zip(starts[n:-1], bias, strict=True))
    return Layout(shapes, tuple(starts[:n]), b, starts[n], starts[-1])


@dataclass(frozen=True)
class Model:
    """A network without its numbers. Hashable, and all that an executor or a file sees of one.

    Parameters
    ----------
    sizes : tuple of int
        Units by layer: (n_in, ..., n_out), at least two.
    activations : tuple of Activation
        One per layer, the output layer's last.
    loss : Loss
    bias : tuple of bool
        Whether each layer has biases.
    dropout : tuple of float
        Chance in 0..1 (1 excluded) that an output of a hidden layer is dropped in training; one per
        hidden layer.
    dtype : numpy.dtype
        float32 or float64.
    """

    sizes: tuple[int, ...]
    activations: tuple[Activation, ...]
    loss: Loss
    bias: tuple[bool, ...]
    dropout: tuple[float, ...]
    dtype: np.dtype

    def __post_init__(self) -> None:
        for activation in self.activations:
            entry = ACTIVATIONS.get(activation.name)
            # Losses know activations by their names: o - y is the delta of one sigmoid only.
            same = ("elementwise", "f", "df")
            if entry is not None and any(
                getattr(entry, name) != getattr(activation, name) for name in same
            ):
                raise ValueError(
                    f"activation {activation.name!r} has other formulas than the table's of that "
                    "name; give it a name of its own"
                )
        check_pair(self.activations[-1], self.loss)
        for activation in self.activations[:-1]:
            if not activation.elementwise:
                raise ValueError(
                    f"hidden activation {activation.name!r} works on whole rows and can only be "
                    "the output's; use an elementwise one"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what was computed from the fields: it is computed again.
        return Model, tuple(getattr(self, field.name) for field in fields(self))

    @property
    def n_layers(self) -> int:
        """Layers with weights."""
        return len(self.sizes) - 1

    @cached_property
    def layout(self) -> Layout:
        """Where each W[l] and b[l] stands in the flat buffer."""
        return layout(self.sizes, self.bias)

    @cached_property
    def pair(self) -> Pair:
        """The loss joined to the output activation."""
        return pair(self.activations[-1], self.loss)

    @cached_property
    def keeps_z(self) -> tuple[bool, ...]:
        """Whether each layer's z is read again after its a was computed."""
        hidden = [activation.reads == "z" for activation in self.activations[:-1]]
        return (*hidden, self.pair.reads_z)
