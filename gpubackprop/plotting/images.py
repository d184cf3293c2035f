"""What the first layer looks for, as images."""

import math
from typing import Any

import numpy as np

from gpubackprop.plotting.drawing import SIGNED, axes_of, bare, weights_of


def first_layer_weights(
    source: Any, shape: tuple[int, int] | None = None, ax: Any = None, *, most: int = 36
) -> Any:
    """Draw the weights of each unit of the first layer as an image, side by side.

    Parameters
    ----------
    source : Network, Trace, estimator or sequence of arrays
    shape : tuple of int, optional
        Rows and columns of an input image; by default a square.
    ax : matplotlib.axes.Axes, optional
    most : int, optional
        Units that are drawn, >= 1: those with the largest weights (Euclidean norm), in their order.

    Returns
    -------
    matplotlib.axes.Axes
        With one image of all units; a unit's number stands above its part. All share one scale, on
        which 0 is white.

    Raises
    ------
    ValueError
        If an input has not rows times columns numbers, or `most` is below 1.
    ImportError
        If `ax` is not given and matplotlib is not installed.
    """
    W = weights_of(source)[0]
    if most < 1:
        raise ValueError(f"most must be an integer >= 1, got {most}")
    rows, columns = shape or (math.isqrt(W.shape[1]),) * 2
    if rows * columns != W.shape[1]:
        raise ValueError(
            f"shape must be the rows and columns of an image of {W.shape[1]} inputs, got "
            f"{(rows, columns)}" + ("" if shape else " by default; give shape")
        )
    units = np.sort(np.argsort(-np.linalg.norm(W, axis=1), kind="stable")[:most])
    across = math.ceil(math.sqrt(len(units) * 1.4 * rows / columns))
    down = math.ceil(len(units) / across)
    gap_x, gap_y = max(1, columns // 8), max(2, round(rows / 3.5))
    sheet = np.full((down * (rows + gap_y), across * (columns + gap_x) - gap_x), np.nan)
    ax = axes_of(ax, 6.4, 0.5 + 5.4 * sheet.shape[0] / sheet.shape[1])
    for k, unit in enumerate(units):
        y, x = (k // across) * (rows + gap_y) + gap_y, (k % across) * (columns + gap_x)
        sheet[y : y + rows, x : x + columns] = W[unit].reshape(rows, columns)
        middle = x + (columns - 1) / 2
        ax.text(middle, y - 0.7, str(unit), ha="center", va="bottom", fontsize="x-small")
    # Single outliers would leave everything else white.
    limit = float(np.quantile(np.abs(W[units]), 0.99)) or 1.0
    image = ax.imshow(sheet, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    bare(ax)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.02, extend="both")
    bar.set_label("weight")
    bar.outline.set_visible(False)
    hidden = len(W) - len(units)
    rest = f"; {hidden} more are smaller" if hidden else ""
    ax.set_xlabel(f"units of the first layer, {rows} x {columns} inputs each{rest}")
    return ax
