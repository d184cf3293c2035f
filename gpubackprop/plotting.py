"""Pictures: plain matplotlib, axes in, axes out."""

from collections.abc import Mapping
from typing import Any

from gpubackprop.errors import missing

#: Colours that can be told apart without colour vision too (Okabe and Ito, 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
#: An axis is logarithmic where its values span more than this factor.
_LOGARITHMIC = 20.0

_AXES = {"epochs": ("epoch", "epoch"), "seconds": ("seconds", "seconds of training")}


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


def loss_curves(
    runs: Mapping[str, Any],
    axes: Any = None,
    *,
    against: str = "epochs",
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Draw the loss of one or several trainings.

    Parameters
    ----------
    runs : mapping of str to History
        By label. Anything with lists `epoch`, `seconds` and `loss` will do, or a mapping with such
        lists. Epochs are counted from 1 in the picture.
    axes : matplotlib.axes.Axes, optional
        Where to draw; by default a figure of its own (``axes.figure.savefig("loss.png")``).
    against : {"epochs", "seconds"}, optional
        What the horizontal axis is.
    styles : mapping of str to dict, optional
        Keyword arguments of ``axes.plot`` for each label.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If `against` is something else, or there is nothing to draw.
    ImportError
        If `axes` is not given and matplotlib is not installed.
    """
    if against not in _AXES:
        raise ValueError(f"against must be one of {', '.join(_AXES)}, got {against!r}")
    lines = {label: _points(run, _AXES[against][0]) for label, run in runs.items()}
    if not any(x for x, _ in lines.values()):
        raise ValueError("runs must hold one training with an epoch at least, got none")
    axes = figure(6.0, 4.2).add_subplot() if axes is None else axes
    for i, (label, (x, loss)) in enumerate(lines.items()):
        # A single point has no line.
        style: dict[str, Any] = {
            "color": COLORS[i % len(COLORS)],
            "linestyle": LINES[i // len(COLORS) % len(LINES)],
            "linewidth": 1.6,
            "marker": "o" if len(x) == 1 else None,
        }
        axes.plot(x, loss, label=label, **(style | dict((styles or {}).get(label, {}))))
    axes.set_xlabel(_AXES[against][1])
    axes.set_ylabel("mean loss of the training rows")
    _scale(axes, "x", [value for x, _ in lines.values() for value in x])
    _scale(axes, "y", [value for _, loss in lines.values() for value in loss])
    axes.grid(True, which="major", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize="small")
    return axes


def _points(run: Any, name: str) -> tuple[list[float], list[float]]:
    """Return x and loss of a training; nothing if it has no such x."""
    mapping = run if isinstance(run, Mapping) else vars(run)
    x, loss = list(mapping.get(name) or []), list(mapping.get("loss") or [])
    if name == "epoch" and x and x[0] == 0:
        x = [epoch + 1 for epoch in x]
    return (x, loss) if x else ([], [])


def _scale(axes: Any, axis: str, values: list[float]) -> None:
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(values) > _LOGARITHMIC * min(values):
        getattr(axes, f"set_{axis}scale")("log")
        getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")


def comparison(results: list[Any], title: str = "") -> Any:
    """Draw what `gpubackprop.compare.compare` found: loss against time and against epochs.

    Parameters
    ----------
    results : list of compare.Result
        A colour stands for a mode, a kind of line for a backend and an executor.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    modes = list(dict.fromkeys(r.mode for r in results))
    places = list(dict.fromkeys((r.backend, r.executor) for r in results))
    styles = {
        r.label: {
            "color": COLORS[modes.index(r.mode) % len(COLORS)],
            "linestyle": LINES[places.index((r.backend, r.executor)) % len(LINES)],
        }
        for r in results
    }
    timed = {r.label: r.curve for r in results if r.seconds is not None}
    drawing = figure(10.0 if timed else 5.4)
    curves = {r.label: r.curve for r in results}
    panels = drawing.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    if timed:
        loss_curves(timed, panels[0], against="seconds", styles=styles)
    loss_curves(curves, panels[-1], against="epochs", styles=styles)
    if timed:
        panels[-1].set_ylabel("")
        if panels[0].get_legend():
            panels[0].get_legend().remove()  # the other panel has it
    drawing.suptitle(title, fontsize="medium")
    return drawing
