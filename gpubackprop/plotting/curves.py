"""Losses as they fall, against epochs or against time."""

from collections.abc import Mapping
from typing import Any

from gpubackprop.plotting.drawing import COLORS, LINES, axes_of, figure, tidy

#: An axis is logarithmic where its values span more than this factor.
_LOGARITHMIC = 20.0

_AXES = {"epochs": ("epoch", "epoch"), "seconds": ("seconds", "seconds of training")}


def loss_curves(
    runs: Any,
    ax: Any = None,
    *,
    against: str = "epochs",
    validation: bool = True,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Draw the loss of one or several trainings.

    A run's validation loss is a dashed line in its colour; a ring stands at the epoch whose
    parameters early stopping kept.

    Parameters
    ----------
    runs : History or mapping of str to History
        Several by label. Anything with lists `epoch`, `seconds` and `loss` will do, or a mapping
        with such lists. Epochs are counted from 1 in the picture.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a figure of its own (``ax.figure.savefig("loss.png")``).
    against : {"epochs", "seconds"}, optional
        What the horizontal axis is.
    validation : bool, optional
        Whether to draw validation losses where there are any.
    styles : mapping of str to dict, optional
        Keyword arguments of ``ax.plot`` for each label.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If `against` is something else, or there is nothing to draw.
    ImportError
        If `ax` is not given and matplotlib is not installed.
    """
    if against not in _AXES:
        raise ValueError(f"against must be one of {', '.join(_AXES)}, got {against!r}")
    named = runs if isinstance(runs, Mapping) and "loss" not in runs else {"": runs}
    lines = {label: _points(run, _AXES[against][0]) for label, run in named.items()}
    if not any(x for x, _ in lines.values()):
        raise ValueError("runs must hold one training with an epoch at least, got none")
    ax = axes_of(ax)
    heights = []
    for i, (label, (x, loss)) in enumerate(lines.items()):
        style = _style(i, len(x)) | dict((styles or {}).get(label, {}))
        ax.plot(x, loss, label=label or "training", **style)
        heights += loss
        if validation and x:
            heights += _validation(ax, named[label], label, x, style)
    ax.set_xlabel(_AXES[against][1])
    alone = len(heights) == sum(len(loss) for _, loss in lines.values())
    ax.set_ylabel("mean loss of the training rows" if alone else "mean loss")
    _scale(ax, "x", [value for x, _ in lines.values() for value in x])
    _scale(ax, "y", heights)
    tidy(ax)
    if len(ax.get_lines()) > 1:
        ax.legend(frameon=False, fontsize="small")
    return ax


def _style(i: int, n: int) -> dict[str, Any]:
    """Return the look of the i-th training, of n points; a single point has no line."""
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": LINES[i // len(COLORS) % len(LINES)],
        "linewidth": 1.6,
        "marker": "o" if n == 1 else None,
    }


def _lists(run: Any) -> Mapping[str, Any]:
    return run if isinstance(run, Mapping) else vars(run)


def _points(run: Any, name: str) -> tuple[list[float], list[float]]:
    """Return x and loss of a training; nothing if it has no such x."""
    x, loss = list(_lists(run).get(name) or []), list(_lists(run).get("loss") or [])
    if name == "epoch" and x and x[0] == 0:
        x = [epoch + 1 for epoch in x]
    return (x, loss) if x else ([], [])


def _validation(
    ax: Any, run: Any, label: str, x: list[float], style: Mapping[str, Any]
) -> list[float]:
    """Draw a run's validation loss, if it has one, and return it."""
    loss = list(_lists(run).get("validation_loss") or [])
    if not loss:
        return []
    name = f"{label}, validation" if label else "validation"
    ax.plot(x, loss, label=name, **{**style, "linestyle": (0, (4, 2)), "linewidth": 1.3})
    best = _lists(run).get("best_epoch")
    if best is not None:
        ax.plot(
            x[best], loss[best], "o", color=style["color"], markerfacecolor="none", markersize=8,
            label=f"best epoch: {best + 1}", linestyle="none",
        )  # fmt: skip
    return loss


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
