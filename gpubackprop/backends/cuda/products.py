"""The same update with products of our own, each with the pass behind it: what a graph can hold."""

import functools
from typing import Any

import numpy as np

from gpubackprop.activations import IDENTITY
from gpubackprop.backends.cuda import functions, modules
from gpubackprop.backends.cuda.step import Scratch, Step, load
from gpubackprop.buffers import Parameters, Workspace
from gpubackprop.types import Array

#: Rows and columns of a block's tile of a product, and the depth that it takes at once.
_TILE = 32
#: Blocks that share a tile's sum at most.
_MOST_SPLITS = 16


class OwnProducts(Step):
    """`Step` without cuBLAS, which CuPy refuses to call while a stream is captured.

    An update of L layers is ``3 L + 1`` launches.
    """

    @functools.cached_property
    def _products(self) -> dict[str, Any]:
        return modules.kernels("gemm", self._formulas, self.backend.device)

    def prepare(self, n: int) -> None:
        """Compile, load and reserve all that an update of n rows needs."""
        super().prepare(n)
        load(self._products)

    # ---- the products ---------------------------------------------------------------------------

    def _multiply(self, name: str, M: int, N: int, K: int, *arguments: Any) -> None:
        """Launch a product with M x N results, each a sum of K."""
        scratch = self.scratch
        assert scratch is not None
        grid = -(-N // _TILE), -(-M // _TILE), splits(M, N, K, self.backend.multiprocessors)
        self._products[name](grid, (256,), (*arguments, scratch.partials, scratch.tickets))

    def _layer(
        self, l: int, a: Array, parameters: Parameters, ws: Workspace, first: int | None
    ) -> Array:
        out = ws.z[l], ws.a[l], ws.h[l]
        self._forward(a, parameters.weights[l], parameters.biases[l], out, l, first)
        return ws.a[l] if first is None else ws.h[l]

    def _product(self, a: Array, W: Array, out: Array) -> None:
        self._forward(a, W, None, (out, out, out), None, None)

    def _forward(
        self,
        a: Array,
        W: Array,
        b: Array | None,
        out: tuple[Array, Array, Array],
        l: int | None,
        first: int | None,
    ) -> None:
        """Write z, a and what is left of it after dropout; without a layer, the product alone."""
        (n_out, n_in), n = W.shape, len(a)
        kind = self._kind[l] if l is not None else self._identity
        drop = self._keep_all if l is None else self._dropping(l, first)
        self._multiply(
            "gemm_forward", n, n_out, n_in, a, W, b, *out, np.int32(n), np.int32(n_in),
            np.int32(n_out), kind, self._C[l or 0], drop, self.scalars.state,
        )  # fmt: skip

    @functools.cached_property
    def _identity(self) -> np.int32:
        return np.int32(functions.kind(IDENTITY, self._formulas.known))

    def _output(
        self,
        z: Array,
        Y: Array,
        w: Array | None,
        scale: float,
        parameters: Parameters,
        out: Parameters,
        loss: Array,
        *,
        db: bool = False,  # it comes with the gradient of W
    ) -> None:
        super()._output(z, Y, w, scale, parameters, out, loss, db=db)

    def _weights_gradient(self, l: int, delta: Array, a: Array, out: Parameters) -> None:
        (n_out, n_in), n = out.weights[l].shape, len(delta)
        self._multiply(
            "gemm_gradient", n_out, n_in, n, delta, a, out.weights[l], out.biases[l],
            np.int32(n), np.int32(n_in), np.int32(n_out),
        )  # fmt: skip

    def _back(
        self, l: int, parameters: Parameters, ws: Workspace, out: Parameters, first: int | None
    ) -> None:
        W, delta = parameters.weights[l], ws.delta[l]
        (n_out, n_in), n = W.shape, len(delta)
        self._multiply(
            "gemm_backward", n, n_in, n_out, delta, W, self._read(l - 1, ws), ws.delta[l - 1],
            np.int32(n), np.int32(n_in), np.int32(n_out), self._kind[l - 1], self._C[l - 1],
            self._dropping(l - 1, first), self.scalars.state,
        )  # fmt: skip

    def _new_scratch(self, n: int) -> Scratch:
        smaller = super()._new_scratch(n)
        partials, tickets = len(smaller.partials), len(smaller.tickets)
        for n_out, n_in in self.model.layout.shapes:
            for M, N, K in ((n, n_out, n_in), (n, n_in, n_out), (n_out, n_in, n)):
                parts = splits(M, N, K, self.backend.multiprocessors)
                if parts > 1:
                    partials = max(partials, parts * (M * N + M))
                    tickets = max(tickets, -(-M // _TILE) * -(-N // _TILE))
        return Scratch(self.backend, self.model.dtype, n, partials, tickets)


def splits(M: int, N: int, K: int, multiprocessors: int) -> int:
    """Return how many blocks share the sums of a tile.

    As many as fill the device, or leave each two tiles of depth: a product of 32 x 30 results, each
    a sum of 784, is one tile, and would run on one multiprocessor.
    """
    tiles = -(-M // _TILE) * -(-N // _TILE)
    return max(1, min(multiprocessors // tiles, -(-K // _TILE) // 2, _MOST_SPLITS))
