"""What the pictures share: figures, colours, axes without clutter."""

from typing import Any

import numpy as np

from gpubackprop.errors import missing

#: Colours that can be told apart without colour vision too (Okabe and Ito, 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
#: One for each colour, where a picture has points.
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
#: Of signed numbers: from orange by way of white to violet.
SIGNED = "PuOr"


def figure(width: float = 10.0, height: float = 4.2) -> Any:
    """Return an empty figure, in inches, that belongs to no window.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing("matplotlib", "plot") from None
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def axes_of(ax: Any, width: float = 6.0, height: float = 4.2) -> Any:
    """Return the given axes, or those of a new figure."""
    return figure(width, height).add_subplot() if ax is None else ax


def tidy(ax: Any, grid: str = "both") -> None:
    """Leave two spines, and a pale grid behind the data along `grid`: "x", "y" or "both"."""
    ax.grid(True, which="major", axis=grid, color="0.88", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def bare(ax: Any) -> None:
    """Leave nothing around a picture: no ticks, no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def host(array: Any) -> np.ndarray:
    """Return an array, of the CPU or of a GPU, as float64 in the host's memory."""
    on_device = hasattr(array, "__cuda_array_interface__") and hasattr(array, "get")
    return np.asarray(array.get() if on_device else array, np.float64)


def weights_of(source: Any) -> list[np.ndarray]:
    """Return W of each layer, of shape (n_out, n_in).

    Parameters
    ----------
    source : Network, Trace, estimator or sequence of arrays
        An estimator's ``coefs_`` are (n_in, n_out), as in scikit-learn.
    """
    if hasattr(source, "coefs_"):
        return [host(W).T for W in source.coefs_]
    found = getattr(source, "weights", None)
    if found is None:
        found = getattr(source, "W", source)
    return [host(W) for W in found]
