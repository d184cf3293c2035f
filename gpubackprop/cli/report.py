"""What ``gpubackprop train`` prints at the end."""

from typing import Any

from gpubackprop import tables
from gpubackprop.cli.output import columns, count, show
from gpubackprop.cli.progress import duration
from gpubackprop.cli.training import Trained


def show_trained(trained: Trained) -> None:
    """Print what was trained on what, and how well it did."""
    fitted, net, history = trained.fitted, trained.net, trained.history
    target = fitted.preprocessing.target
    assert target is not None
    numbers = sum(isinstance(c, tables.Number) for c in fitted.preprocessing.columns)
    others = len(fitted.preprocessing.columns) - numbers
    rows = f"{fitted.n_training:,} training rows, {fitted.n_validation:,} held out"
    if fitted.n_left_out:
        rows += f", {fitted.n_left_out:,} left out, without a target"
    table = columns()
    table.add_row("data", f"{trained.options.data}: {rows}")
    table.add_row(
        "inputs",
        f"{count(net.model.sizes[0], 'input')} from {count(numbers, 'column')} of numbers"
        + (f" and {others} of categories" if others else ""),
    )
    table.add_row("target", _target(target.name, fitted))
    activations = ", ".join(dict.fromkeys(a.name for a in net.model.activations))
    sizes = "-".join(map(str, net.model.sizes))
    table.add_row(
        "network",
        f"{sizes} ({activations}; {net.model.loss.name}), {net.n_parameters:,} parameters",
    )
    seconds = trained.seconds["training"]
    epochs = len(history.epoch)
    rate = history.samples[-1] / max(history.seconds[-1], 1e-9)
    table.add_row(
        "training",
        f"{count(epochs, 'epoch')} in {_seconds(seconds)}, {float(f'{rate:.3g}'):,.0f} samples/s "
        f"({history.backend}, {history.executor}); {_end(trained)}",
    )
    show(table)
    show(_scores(trained))
    show(f"Written: {trained.options.model}")


def _target(name: str, fitted: tables.Fitted) -> str:
    """Say what the target was taken for."""
    if fitted.labels is None:
        return f"{name}: a quantity"
    shown = ", ".join(map(str, fitted.labels[:6])) + (", ..." if len(fitted.labels) > 6 else "")
    return f"{name}: {len(fitted.labels)} classes ({shown})"


def _end(trained: Trained) -> str:
    """Say why it ended and what was kept."""
    history = trained.history
    why = {
        "early_stopping": f"stopped, as {trained.options.patience} brought no better loss; ",
        "interrupted": "interrupted; ",
    }.get(history.stopped or "", "")
    return f"{why}kept epoch {(history.best_epoch or 0) + 1}"


def _scores(trained: Trained) -> Any:
    """Return the table of losses and scores."""
    history = trained.history
    best = history.best_epoch or 0
    table = columns(header=True)
    table.add_column("rows")
    table.add_column("loss", justify="right")
    kinds = list(next(iter(trained.scores.values())))
    heads = {"accuracy": "accuracy", "rmse": "root mean\nsquare error", "r2": "R²"}
    for kind in kinds:
        table.add_column(heads[kind], justify="right")
    losses = {"training": history.loss, "validation": history.validation_loss}
    for part, scores in trained.scores.items():
        at = history.epoch.index(best) if best in history.epoch else -1
        cells = [_score(kind, scores[kind]) for kind in kinds]
        name = {"training": "training", "validation": "held out"}[part]
        table.add_row(name, f"{losses[part][at]:.4g}", *cells)
    return table


def _score(kind: str, number: float) -> str:
    return f"{number:.1%}" if kind == "accuracy" else f"{number:.4g}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def kept(trained: Trained) -> str:
    """Say what Ctrl-C left."""
    history = trained.history
    which = "validation loss" if history.validation_loss else "loss"
    best = history.best_epoch or 0
    losses = history.validation_loss or history.loss
    at = history.epoch.index(best) if best in history.epoch else -1
    checkpoint = trained.options.fit["checkpoint"]
    going_on = f"; {checkpoint} goes on with --resume" if checkpoint else ""
    return (
        f"interrupted: {trained.options.model} holds the best epoch, {best + 1} of "
        f"{len(history.epoch)} ({which} {losses[at]:.4g}){going_on}"
    )
