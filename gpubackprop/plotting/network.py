"""A network drawn with its weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.diagram import MOST, Column, columns
from gpubackprop.plotting.drawing import COLORS, axes_of, bare, weights_of

_RADIUS = 0.3
#: Columns are this far apart; rows of a column 1.
_STEP = 3.2
#: Weights are written beside their lines where there are no more than this many of a layer.
_WRITTEN = 8
_POSITIVE, _NEGATIVE = COLORS[0], COLORS[1]


def draw_network(
    source: Any,
    ax: Any = None,
    *,
    most: int = MOST,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Any:
    """Draw a network as units and lines: the wider a line, the larger its weight.

    Positive weights are blue, unbroken lines, negative ones orange and dashed. Widths are relative
    to the largest weight of each layer.

    Parameters
    ----------
    source : Network, Trace, estimator or sequence of arrays
        Weights of each layer.
    ax : matplotlib.axes.Axes, optional
    most : int, optional
        Units of a layer that are drawn, >= 3; of a larger layer, those that the largest weights
        leave, and one node for all others.
    inputs, outputs : sequence of str, optional
        Names, one for each.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If `most` is below 3, or there is not a name for each input or output.
    ImportError
        If `ax` is not given and matplotlib is not installed.
    """
    weights = weights_of(source)
    if most < 3:
        raise ValueError(f"most must be an integer >= 3, got {most}")
    ends = ((0, "inputs", inputs, weights[0].shape[1]),
            (len(weights), "outputs", outputs, len(weights[-1])))  # fmt: skip
    for _, argument, names, n in ends:
        if names is not None and len(names) != n:
            raise ValueError(f"{argument} must have {n} names, got {len(names)}")
    layers = columns(weights, most=most)
    tallest = max(column.rows for column in layers)
    ax = axes_of(ax, 1.6 + 1.75 * len(layers), 1.4 + 0.55 * tallest)
    places = [
        [(l * _STEP, -height) for height in column.heights(tallest)]
        for l, column in enumerate(layers)
    ]
    for l, W in enumerate(weights):
        _lines(ax, W, layers[l], layers[l + 1], places[l], places[l + 1])
    for l, (column, spots) in enumerate(zip(layers, places, strict=True)):
        title = "inputs" if l == 0 else "output" if l == len(weights) else f"layer {l - 1}"
        _units(ax, column, spots, title)
    for l, _, names, _ in ends:
        if names is not None:
            _names(ax, layers[l], places[l], names, right=l > 0)
    ax.set_xlim(-1.0 if inputs is None else -2.6, _STEP * len(weights) + (2.6 if outputs else 1.0))
    ax.set_ylim(-tallest + 0.3, 1.7)
    ax.set_aspect("equal")
    bare(ax)
    _legend(ax)
    return ax


def _lines(
    ax: Any, W: np.ndarray, below: Column, above: Column, start: list[Any], end: list[Any]
) -> None:
    """Draw the weights between the units that are shown, the largest on top."""
    largest = float(np.abs(W).max()) or 1.0
    pairs = [(k, m) for k in range(len(above.units)) for m in range(len(below.units))]
    pairs.sort(key=lambda pair: abs(W[above.units[pair[0]], below.units[pair[1]]]))
    written = len(pairs) <= _WRITTEN
    for k, m in pairs:
        w = float(W[above.units[k], below.units[m]])
        (x0, y0), (x1, y1) = start[m], end[k]
        share = abs(w) / largest
        color = _NEGATIVE if w < 0 else _POSITIVE
        ax.plot(
            [x0, x1], [y0, y1], color=color, alpha=0.25 + 0.75 * share, zorder=1,
            linewidth=0.4 + 3.4 * share, linestyle=(0, (3, 1.2)) if w < 0 else "-",
            solid_capstyle="butt", dash_capstyle="butt",
            gid=f"W[{above.units[k]}, {below.units[m]}]",
        )  # fmt: skip
        if written:
            # Nearer to one end than to the other, lest the labels of crossing lines meet.
            t = 0.26
            ax.text(
                x0 + t * (x1 - x0), y0 + t * (y1 - y0), f"{w:.2f}", fontsize="x-small",
                ha="center", va="center", color=color, zorder=2,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9},
            )  # fmt: skip


def _units(ax: Any, column: Column, spots: list[Any], title: str) -> None:
    from matplotlib.patches import Circle

    head = f"{title}\n{len(column.units) + column.folded}"
    ax.text(spots[0][0], 0.75, head, ha="center", va="bottom", fontsize="small")
    for unit, spot in zip(column.units, spots, strict=False):
        ax.add_patch(
            Circle(spot, _RADIUS, facecolor="white", edgecolor="0.25", linewidth=1.2, zorder=3)
        )
        ax.text(*spot, str(unit), ha="center", va="center", fontsize="x-small", zorder=4)
    if column.folded:
        x, y = spots[-1]
        ax.text(
            x, y, f"… {column.folded} more", ha="center", va="center", fontsize="x-small", zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip


def _names(ax: Any, column: Column, spots: list[Any], names: Sequence[str], *, right: bool) -> None:
    side, away = ("left", 1.5) if right else ("right", -1.5)
    for unit, (x, y) in zip(column.units, spots, strict=False):
        ax.text(
            x + away * _RADIUS, y, names[unit], ha=side, va="center", fontsize="small", zorder=4
        )


def _legend(ax: Any) -> None:
    from matplotlib.lines import Line2D

    ax.legend(
        [Line2D([], [], color=_POSITIVE, linewidth=2.5),
         Line2D([], [], color=_NEGATIVE, linewidth=2.5, linestyle=(0, (3, 1.2)))],
        ["positive weight", "negative weight"], loc="upper center", bbox_to_anchor=(0.5, 0.0),
        ncols=2, frameon=False, fontsize="small", handlelength=3.0,
    )  # fmt: skip
