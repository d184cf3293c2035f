"""How fast each mode is, on each backend with each executor."""

from collections.abc import Sequence
from typing import Any

from gpubackprop.plotting.drawing import COLORS, axes_of, tidy

_HATCHES = ("", "///", "...", "xxx")
_HEIGHT = 0.8


def throughput(results: Sequence[Any], ax: Any = None) -> Any:
    """Draw samples trained in a second, as bars: a group for each mode, a bar for each place.

    Parameters
    ----------
    results : sequence of compare.Result, or of mappings
        With `mode`, `backend`, `executor` and `samples_per_second`, as in ``compare.json``. Those
        without a time (None) are left out.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Its horizontal axis is logarithmic.

    Raises
    ------
    ValueError
        If no result has a time.
    ImportError
        If `ax` is not given and matplotlib is not installed.
    """
    rows = [r if isinstance(r, dict) else vars(r) for r in results]
    rows = [row for row in rows if row["samples_per_second"]]
    if not rows:
        raise ValueError("results must hold one with samples_per_second at least, got none")
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    places = list(dict.fromkeys((row["backend"], row["executor"]) for row in rows))
    ax = axes_of(ax, 7.4, 1.2 + 0.32 * len(rows) + 0.25 * len(modes))
    height = _HEIGHT / len(places)
    for i, place in enumerate(places):
        mine = [row for row in rows if (row["backend"], row["executor"]) == place]
        bars = ax.barh(
            [modes.index(row["mode"]) + (i - (len(places) - 1) / 2) * height for row in mine],
            [row["samples_per_second"] for row in mine],
            0.9 * height, color=COLORS[i % len(COLORS)], label=" ".join(place),
            hatch=_HATCHES[i % len(_HATCHES)], edgecolor="white", linewidth=0,
        )  # fmt: skip
        labels = [f"{_round(row['samples_per_second']):,.0f}" for row in mine]
        ax.bar_label(bars, labels, padding=3, fontsize="small")
    speeds = [row["samples_per_second"] for row in rows]
    ax.set_xscale("log")
    # Bars of a logarithmic axis have no natural beginning; room for the figures on the right.
    ax.set_xlim(min(speeds) / 4, max(speeds) * 4)
    ax.set_yticks(range(len(modes)), modes)
    ax.invert_yaxis()
    ax.set_xlabel("samples trained in a second (logarithmic)")
    tidy(ax, "x")
    if len(places) > 1:
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _round(speed: float) -> float:
    """Keep three digits: more were not measured."""
    return float(f"{speed:.3g}")
