"""PyTorch on a GPU, as its expert would train the benchmarks' networks: eager, compiled, and a
captured CUDA graph.

Same sizes, activations, loss (mean over the batch) and plain gradient descent, data on the device,
rows in a new order in each epoch, drawn and gathered there.
"""

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ENGINES = ("torch eager", "torch compiled", "torch graph")


@functools.cache
def problem() -> str | None:
    """Return why PyTorch cannot be timed here, in words; None if it can."""
    try:
        import torch
    except Exception as error:  # absent, or broken
        return f"PyTorch cannot be imported: {error}"
    return None if torch.cuda.is_available() else "PyTorch sees no GPU"


def describe() -> str:
    """Name the version."""
    import torch

    return f"torch {torch.__version__}"


def network(sizes: list[int], hidden: str, output: str, loss: str, device: str) -> tuple[Any, Any]:
    """Return the module, without an output activation that its loss brings, and the loss."""
    import torch
    from torch import nn

    layers: list[Any] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(n_in, n_out))
        if i < len(sizes) - 2:
            layers.append({"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}[hidden]())
    if loss == "squared":
        if output == "sigmoid":
            layers.append(nn.Sigmoid())

        def cost(o: Any, y: Any) -> Any:
            return 0.5 * torch.sum((o - y) ** 2) / o.shape[0]

    elif loss == "log_loss":
        whole = nn.BCEWithLogitsLoss(reduction="sum")

        def cost(o: Any, y: Any) -> Any:
            return whole(o, y) / o.shape[0]
    else:
        cost = nn.CrossEntropyLoss()
    return nn.Sequential(*layers).to(device), cost


def trainer(
    engine: str, case: Any, batch_size: int, X: np.ndarray, Y: np.ndarray, device: str = "cuda"
) -> Callable[[int], float]:
    """Return a function that trains for some epochs and returns the seconds it took."""
    import torch

    sizes, hidden, output, loss, _, rate = case
    torch.manual_seed(0)
    module, cost = network(sizes, hidden, output, loss, device)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, foreach=True)
    x = torch.from_numpy(np.ascontiguousarray(X)).to(device)
    y = torch.from_numpy(np.ascontiguousarray(Y)).to(device)
    n = len(x) // batch_size * batch_size
    x_batch, y_batch = x[:batch_size].clone(), y[:batch_size].clone()
    total = torch.zeros((), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        value = cost(module(x_batch), y_batch)
        value.backward()
        optimizer.step()
        total.add_(value.detach())

    update = {
        "torch eager": lambda: step,
        "torch compiled": lambda: torch.compile(step),
        "torch graph": lambda: captured(step),
    }[engine]()

    def train(epochs: int) -> float:
        start = time.perf_counter()
        for _ in range(epochs):
            order = torch.randperm(len(x), device=device)
            for i in range(0, n, batch_size):
                rows = order[i : i + batch_size]
                torch.index_select(x, 0, rows, out=x_batch)
                torch.index_select(y, 0, rows, out=y_batch)
                update()
            total.item()  # waits
        return time.perf_counter() - start

    return train


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Return a replay of one step, captured after some to warm up on a stream of their own."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay  # type: ignore[no-any-return]
