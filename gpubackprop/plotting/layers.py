"""Weights and deltas by layer: whether a network saturates, and whether its gradients vanish."""

from typing import Any

import numpy as np

from gpubackprop.plotting.drawing import COLORS, axes_of, host, tidy, weights_of

_BINS = 60
#: Height of a layer's histogram; 1 is the distance between two layers.
_TALL = 0.85


def weight_histograms(source: Any, ax: Any = None) -> Any:
    """Draw how each layer's weights are distributed, one histogram above the other.

    Parameters
    ----------
    source : Network, Trace, estimator or sequence of arrays
        Weights of each layer.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        The first layer is at the top; a stroke marks each median. Each histogram is scaled to its
        own largest bin.

    Raises
    ------
    ValueError
        If there is no layer, or a weight is not finite.
    ImportError
        If `ax` is not given and matplotlib is not installed.
    """
    layers = [W.ravel() for W in weights_of(source)]
    _check("source", layers)
    largest = max(float(np.abs(w).max()) for w in layers) or 1.0
    ax = _stack(ax, layers, np.linspace(-1.05 * largest, 1.05 * largest, _BINS))
    shapes = [f"W[{l}]\n{w.size:,} weights" for l, w in enumerate(layers)]
    _finish(ax, shapes, "weight")
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    _note(ax, [f"sd {w.std():.2g}" for w in layers])
    return ax


def delta_histograms(source: Any, ax: Any = None) -> Any:
    """Draw the sizes of each layer's deltas, |dL/dz|, on one logarithmic axis.

    Where gradients vanish, the histograms move to the left from the output down to the first layer,
    a factor at each.

    Parameters
    ----------
    source : Trace or sequence of arrays
        ``delta[l]`` of each layer, of shape (n, n_out).
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        The first layer is at the top; a stroke marks each median, also written beside it. Deltas
        that are 0 (units of relu that are off) are counted in words.

    Raises
    ------
    ValueError
        If there is no layer, a delta is not finite, or all are 0.
    ImportError
        If `ax` is not given and matplotlib is not installed.
    """
    layers = [np.abs(host(d)).ravel() for d in getattr(source, "delta", source)]
    _check("source", layers)
    sizes = [d[d > 0] for d in layers]
    everything = np.concatenate(sizes)
    if not everything.size:
        raise ValueError("source must hold a delta other than 0, got zeros only")
    low, high = np.log10([everything.min(), everything.max()])
    # A few deltas that underflow nearly to 0 must not squeeze all others together.
    low = max(low, np.log10(np.quantile(everything, 0.001)) - 1)
    edges = np.logspace(low - 0.1, high + 0.1, _BINS)
    ax = _stack(ax, [np.maximum(d, 10**low) for d in sizes], edges)
    ax.set_xscale("log")
    _finish(ax, [f"delta[{l}]" for l in range(len(layers))], "|delta| = |dL/dz| (logarithmic)")
    _note(ax, [_middle(s, d) for s, d in zip(sizes, layers, strict=True)])
    return ax


def _middle(sizes: np.ndarray, layer: np.ndarray) -> str:
    """Say a layer's median, and how many of its deltas are 0."""
    zeros = 1 - sizes.size / layer.size
    middle = f"median {np.median(sizes):.1e}" if sizes.size else "all are 0"
    return middle if zeros in (0, 1) else f"{middle}\n{zeros:.0%} are 0"


def _check(name: str, layers: list[np.ndarray]) -> None:
    if not layers:
        raise ValueError(f"{name} must have one layer at least, got none")
    for l, values in enumerate(layers):
        if not values.size or not np.isfinite(values).all():
            raise ValueError(f"{name} must hold finite numbers, and layer {l} does not")


def _stack(ax: Any, layers: list[np.ndarray], edges: np.ndarray) -> Any:
    """Draw a histogram for each layer, standing on its own line."""
    ax = axes_of(ax, 6.4, 1.0 + 0.75 * len(layers))
    for l, values in enumerate(layers):
        counts, _ = np.histogram(values, edges)
        heights = _TALL * counts / max(1, counts.max())
        floor = -float(l)
        ax.stairs(
            floor + heights, edges, baseline=floor, fill=True, color=COLORS[0], alpha=0.35, zorder=2
        )
        ax.stairs(floor + heights, edges, baseline=floor, color=COLORS[0], linewidth=1.0, zorder=3)
        if values.size:
            ax.vlines(
                np.median(values), floor, floor + _TALL, color=COLORS[1], linewidth=2, zorder=4
            )
    ax.set_xlim(edges[0], edges[-1])
    return ax


def _finish(ax: Any, names: list[str], label: str) -> None:
    ax.set_yticks([-float(l) for l in range(len(names))], names, va="bottom")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-len(names) + 0.9, 1.0)
    ax.set_xlabel(label)
    tidy(ax)


def _note(ax: Any, notes: list[str]) -> None:
    """Write beside each layer, right of the axes."""
    for l, note in enumerate(notes):
        ax.annotate(
            note, (1.01, -float(l)), xycoords=("axes fraction", "data"), va="bottom",
            fontsize="small", annotation_clip=False,
        )  # fmt: skip
