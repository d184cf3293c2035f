"""PyTorch: modules and autograd, with a fused optimiser, compiled, and with the backward pass by
hand.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from contest.cells import Cell, Data
from contest.engines.base import Engine

_UNITS = {
    "sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU,
    "gelu": torch.nn.GELU,
}  # fmt: skip


class Eager(Engine):
    """`nn.Sequential` that ends in logits, its loss, autograd and the plain optimiser."""

    fused = False
    any_units = True

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        torch.set_num_threads(threads)
        self.X = torch.from_numpy(data.X)
        labels = cell.loss == "cross_entropy"
        self.Y = torch.from_numpy(data.labels if labels else data.Y)
        layers: list[Any] = []
        for W, b in zip(data.weights, data.biases, strict=True):
            linear = torch.nn.Linear(W.shape[1], W.shape[0])
            linear.weight.data, linear.bias.data = torch.tensor(W), torch.tensor(b)
            layers += [linear, _UNITS[cell.hidden]()]
        self.linears = layers[::2]
        self.model = torch.nn.Sequential(*layers[:-1])
        make = torch.optim.Adam if cell.adam else torch.optim.SGD
        self.optimizer = make(self.model.parameters(), cell.learning_rate, fused=self.fused)
        self.loss_of = self.forward

    def forward(self, x: Any, y: Any) -> Any:
        z = self.model(x)
        if self.cell.loss == "cross_entropy":
            return F.cross_entropy(z, y)
        if self.cell.loss == "log_loss":
            return F.binary_cross_entropy_with_logits(z, y)
        o = torch.sigmoid(z) if self.cell.output == "sigmoid" else z
        return F.mse_loss(o, y, reduction="sum") * (0.5 / self.cell.batch_size)

    def step(self, x: Any, y: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_of(x, y).backward()
        self.optimizer.step()

    def train(self, order: np.ndarray) -> None:
        if self.cell.full:
            for _ in range(0, len(order), self.cell.batch_size):
                self.step(self.X, self.Y)
            return
        for rows in torch.from_numpy(order).split(self.cell.batch_size):
            self.step(self.X[rows], self.Y[rows])

    def parameters(self) -> list[Any]:
        return [p.detach().numpy() for linear in self.linears for p in (linear.weight, linear.bias)]


class Fused(Eager):
    """The same with the optimiser's one fused pass."""

    fused = True


class Compile(Fused):
    """The same with network and loss compiled, forward and backward."""

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        torch._dynamo.reset()
        self.loss_of = torch.compile(self.forward, dynamic=False)


class ByHand(Engine):
    """The equations with ``out=`` and in-place operations, without autograd; losses not summed."""

    def __init__(self, cell: Cell, data: Data, threads: int) -> None:
        super().__init__(cell, data, threads)
        torch.set_num_threads(threads)
        self.X, self.Y = torch.from_numpy(data.X), torch.from_numpy(data.Y)
        self.W = [torch.tensor(W) for W in data.weights]
        self.b = [torch.tensor(b) for b in data.biases]
        n = cell.batch_size
        self.a = [torch.empty(n, m) for m in cell.sizes[1:]]
        self.delta = [torch.empty(n, m) for m in cell.sizes[1:]]
        self.x, self.y = torch.empty(n, cell.sizes[0]), torch.empty(n, cell.sizes[-1])
        self.dW, self.db = [torch.empty_like(W) for W in self.W], [b.clone() for b in self.b]
        if cell.adam:
            self.adam = _Adam([*self.W, *self.b], cell.learning_rate)

    def forward(self, x: Any) -> None:
        for l, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            z = torch.addmm(b, x, W.t(), out=self.a[l])
            if l == len(self.W) - 1 and self.cell.loss == "cross_entropy":
                torch.softmax(z, 1, out=z)
            else:
                z.sigmoid_()
            x = z

    def step(self, x: Any, y: Any) -> None:
        self.forward(x)
        cell, a = self.cell, self.a
        delta = torch.sub(a[-1], y, out=self.delta[-1]).mul_(1 / cell.batch_size)
        if cell.loss == "squared":
            torch.ops.aten.sigmoid_backward.grad_input(delta, a[-1], grad_input=delta)
        for l in reversed(range(len(self.W))):
            below = a[l - 1] if l else x
            if l:  # before W changes
                down = torch.mm(delta, self.W[l], out=self.delta[l - 1])
                torch.ops.aten.sigmoid_backward.grad_input(down, below, grad_input=down)
            if cell.adam:
                torch.mm(delta.t(), below, out=self.dW[l])
                torch.sum(delta, 0, out=self.db[l])
            else:
                self.W[l].addmm_(delta.t(), below, alpha=-cell.learning_rate)
                self.b[l].sub_(delta.sum(0), alpha=cell.learning_rate)
            delta = self.delta[l - 1]
        if cell.adam:
            self.adam.step([*self.dW, *self.db])

    def train(self, order: np.ndarray) -> None:
        with torch.inference_mode():
            if self.cell.full:
                for _ in range(0, len(order), self.cell.batch_size):
                    self.step(self.X, self.Y)
            elif self.cell.batch_size == 1:
                for i in order.tolist():
                    self.step(self.X[i : i + 1], self.Y[i : i + 1])
            else:
                for rows in torch.from_numpy(order).split(self.cell.batch_size):
                    torch.index_select(self.X, 0, rows, out=self.x)
                    torch.index_select(self.Y, 0, rows, out=self.y)
                    self.step(self.x, self.y)

    def parameters(self) -> list[Any]:
        return [p.numpy() for pair in zip(self.W, self.b, strict=True) for p in pair]


class _Adam:
    """PyTorch's own fused Adam on gradients that are computed by hand."""

    def __init__(self, parameters: list[Any], rate: float) -> None:
        self.parameters, self.rate = parameters, rate
        self.m, self.v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in parameters]

    def step(self, gradients: list[Any]) -> None:
        torch._foreach_add_(self.steps, 1)
        torch._fused_adam_(
            self.parameters, gradients, self.m, self.v, [], self.steps, lr=self.rate,
            beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip
