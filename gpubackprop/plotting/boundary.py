"""Where a classifier of two features decides for which class."""

from typing import Any

import numpy as np

from gpubackprop.plotting.drawing import COLORS, MARKERS, axes_of, host

_GRID = 300
_MARGIN = 0.08


def decision_boundary(
    model: Any,
    X: Any,
    y: Any,
    ax: Any = None,
    *,
    features: tuple[str, str] = ("x[0]", "x[1]"),
    classes: Any = None,
) -> Any:
    """Draw the regions in which a classifier decides for each class, and the data on top.

    Parameters
    ----------
    model : Network or classifier
        Trained on two features. Of a classifier `predict_proba` is drawn, of a `Network` its
        outputs: one output is the probability of class 1.
    X : array of shape (n, 2)
    y : array of shape (n,)
        Classes; for a `Network`, numbers 0..n_classes - 1.
    ax : matplotlib.axes.Axes, optional
    features : tuple of str, optional
        Names of the axes.
    classes : sequence of str, optional
        Names for the legend.

    Returns
    -------
    matplotlib.axes.Axes
        The paler a region, the less sure the network; a black line is where two classes are equally
        likely.

    Raises
    ------
    ValueError
        If X has not two columns.
    ImportError
        If `ax` is not given and matplotlib is not installed.
    """
    X, y = host(X), np.asarray(y)
    if X.ndim != 2 or X.shape[1] != 2:
        raise ValueError(f"X must have two features, shape (n, 2), got shape {X.shape}")
    kinds = np.asarray(model.classes_ if hasattr(model, "classes_") else range(max(2, y.max() + 1)))
    ax = axes_of(ax, 6.2, 4.6)
    _regions(ax, model, X)
    for k, kind in enumerate(kinds):
        mine = X[y == kind]
        name = str(kind) if classes is None else str(classes[k])
        ax.scatter(
            mine[:, 0], mine[:, 1], s=22, color=COLORS[k % len(COLORS)], edgecolor="white",
            marker=MARKERS[k % len(MARKERS)], linewidth=0.6, label=name, zorder=2,
        )  # fmt: skip
    ax.set_xlabel(features[0])
    ax.set_ylabel(features[1])
    ax.spines[:].set_visible(False)
    ax.legend(
        frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.2, handletextpad=0.2,
    )  # fmt: skip
    return ax


def _regions(ax: Any, model: Any, X: np.ndarray) -> None:
    """Shade where each class is the likeliest, and draw the lines between them."""
    low, high = X.min(axis=0), X.max(axis=0)
    low, high = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
    axis0, axis1 = np.linspace(low[0], high[0], _GRID), np.linspace(low[1], high[1], _GRID)
    points = np.stack(np.meshgrid(axis0, axis1), axis=-1)
    shares = _shares(model, points.reshape(-1, 2)).reshape(_GRID, _GRID, -1)
    best = shares.argmax(axis=-1)
    ax.imshow(
        _shade(shares.max(axis=-1), best, shares.shape[-1]), origin="lower", aspect="auto",
        extent=(low[0], high[0], low[1], high[1]), interpolation="bilinear", zorder=0,
    )  # fmt: skip
    for k in range(shares.shape[-1]):
        others = np.delete(shares, k, axis=-1).max(axis=-1)
        lead = shares[..., k] - others
        if lead.min() < 0 < lead.max():
            ax.contour(axis0, axis1, lead, levels=[0.0], colors="black", linewidths=1.2, zorder=1)


def _shares(model: Any, points: np.ndarray) -> np.ndarray:
    """Return the probability of each class, of shape (n, n_classes)."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(points), np.float64)
    out = host(model.predict(points))
    return np.hstack([1 - out, out]) if out.shape[1] == 1 else out


def _shade(share: np.ndarray, best: np.ndarray, n_classes: int) -> np.ndarray:
    """Return colours: each class's own, mixed with the more white the less sure it is."""
    colors = np.array(
        [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]
         for c in (COLORS[k % len(COLORS)] for k in range(n_classes))]
    )  # fmt: skip
    sure = np.clip((share - 1 / n_classes) / (1 - 1 / n_classes), 0, 1)[..., None]
    strength = 0.08 + 0.32 * sure
    shaded: np.ndarray = 1 - strength * (1 - colors[best])
    return shaded
