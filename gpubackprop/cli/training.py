"""What ``gpubackprop train`` does with its options."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpubackprop import arguments, tables
from gpubackprop.activations import Activation
from gpubackprop.cli import options, progress
from gpubackprop.cli.output import Interrupted
from gpubackprop.executors import EXECUTORS
from gpubackprop.history import EarlyStopping, History
from gpubackprop.network import Network
from gpubackprop.optimizers import Optimizer
from gpubackprop.schema import Schema
from gpubackprop.threads import limited

#: Of rows that do not fit the memory they are given.
_FOLDER = ".rows"
_FOREVER = 2**31 - 1


@dataclass(frozen=True)
class Options:
    """What the user asked for; see the command's help.

    Attributes
    ----------
    data, model : Path
    plan : Plan
    table : dict
        Arguments of `tables.open_table`.
    network : dict
        hidden, activation, output, loss, dropout, bias, init, backend, dtype, rng.
    optimizer : Optimizer
    class_weight : str or None
    patience, min_delta : int, float
        Of early stopping; a patience of 0 is none.
    in_memory : float
        MiB that the rows may take.
    fit : dict
        What `Network.fit` is given as it is.
    """

    data: Path
    model: Path
    plan: tables.Plan
    table: dict[str, Any]
    network: dict[str, Any]
    optimizer: Optimizer
    class_weight: str | None
    patience: int
    min_delta: float
    in_memory: float
    fit: dict[str, Any]


@dataclass
class Trained:
    """What came of it.

    Attributes
    ----------
    options : Options
    fitted : Fitted
    net : Network
    history : History
    scores : dict
        Of the training rows, and of those held out.
    interrupted : bool
        Whether Ctrl-C ended it.
    mapped : bool
        Whether rows were kept in files.
    seconds : dict
        Spent reading, training and in all.
    """

    options: Options
    fitted: tables.Fitted
    net: Network
    history: History
    scores: dict[str, dict[str, float]]
    interrupted: bool
    mapped: bool
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows."""
        model, history, fitted = self.net.model, self.history, self.fitted
        target = fitted.preprocessing.target
        assert target is not None
        return {
            "model": str(self.options.model),
            "data": str(self.options.data),
            "rows": {
                "training": fitted.n_training,
                "validation": fitted.n_validation,
                "without_target": fitted.n_left_out,
            },
            "columns": list(fitted.preprocessing.names),
            "target": target.name,
            "task": "regression" if fitted.labels is None else "classification",
            "labels": fitted.labels,
            "network": {
                "sizes": list(model.sizes),
                "activations": [activation.name for activation in model.activations],
                "loss": model.loss.name,
                "dtype": model.dtype.name,
                "parameters": self.net.n_parameters,
            },
            "optimizer": repr(self.options.optimizer),
            "backend": history.backend,
            "executor": history.executor,
            "threads": history.threads,
            "rows_in_files": self.mapped,
            "epochs": len(history.epoch),
            "best_epoch": history.best_epoch,
            "stopped": history.stopped,
            "interrupted": self.interrupted,
            "scores": self.scores,
            "seconds": self.seconds,
            "history": {
                name: getattr(history, name)
                for name in ("loss", "validation_loss", "learning_rate", "seconds", "samples")
            },
        }


def train(options_: Options) -> Trained:
    """Read a table, train a network and write its file.

    Raises
    ------
    Interrupted
        At Ctrl-C before the first epoch is done.
    ValueError, TypeError, OSError, ...
        As what it calls.
    """
    began = time.perf_counter()
    _check(options_)
    table = tables.open_table(options_.data, **options_.table)
    with progress.bars("done") as bars:
        fitted = tables.fit(table, options_.plan, progress.Reading(bars, "reading"))
        net = _network(options_, fitted)  # refused before the second pass, if at all
        weights = options.class_weights(options_.class_weight, fitted.labels, fitted.counts)
        large = tables.size_of(fitted, net.model.dtype.name) > options_.in_memory * 2**20
        with _folder(options_.model, large) as folder:
            total = fitted.n_training + fitted.n_validation + fitted.n_left_out
            rows, held_out = tables.encode(
                table, fitted, dtype=net.model.dtype.name, folder=folder, class_weights=weights,
                told=progress.Reading(bars, "preparing", total),
            )  # fmt: skip
            read = time.perf_counter()
            interrupted = _fit(net, options_, rows, held_out, large, progress.Training(bars))
            ended = time.perf_counter()
            net.save(options_.model)
            trained = Trained(
                options_, fitted, net, _history(net), _scores(net, rows, held_out), interrupted,
                large,
            )  # fmt: skip
    trained.seconds = {
        "reading": read - began,
        "training": ended - read,
        "all": time.perf_counter() - began,
    }
    return trained


def _history(net: Network) -> History:
    """Return the history of a network that was trained."""
    assert net.history is not None
    return net.history


def _check(given: Options) -> None:
    """Refuse before a long file is read what would be refused after it."""
    choices, fit = given.network, given.fit
    Network(
        [1, *choices["hidden"], 1],
        hidden=_each(choices["activation"]),
        output="identity",
        **{name: choices[name] for name in ("dropout", "bias", "init", "backend", "dtype", "rng")},
    )
    if fit["batch_size"] != "full" and fit["batch_size"] is not None:
        arguments.integer("batch_size", fit["batch_size"], 1)
    if fit["executor"] not in ("auto", *EXECUTORS):
        raise ValueError(
            f"executor must be one of auto, {', '.join(EXECUTORS)}, got {fit['executor']!r}"
        )
    with limited(fit["threads"]):  # checks it
        pass


def _each(activations: list[Activation]) -> Activation | list[Activation]:
    """Return the activation of all hidden layers, or of each."""
    return activations[0] if len(activations) == 1 else activations


def _network(given: Options, fitted: tables.Fitted) -> Network:
    """Make the network that fits the table's inputs and its target."""
    choices = dict(given.network)
    hidden, activation = choices.pop("hidden"), choices.pop("activation")
    output, loss = choices.pop("output"), choices.pop("loss")
    n_out = 1
    if fitted.labels is not None:
        n_out = 1 if len(fitted.labels) == 2 else len(fitted.labels)
        output = output or ("sigmoid" if n_out == 1 else "softmax")
    else:
        output = output or "identity"
    net = Network(
        [len(fitted.preprocessing.inputs), *hidden, n_out],
        hidden=_each(activation),
        output=output,
        loss=loss,
        **choices,
    )
    _check_task(net, fitted)
    net.schema = Schema(
        labels=fitted.labels,  # type: ignore[arg-type]
        feature_names=fitted.preprocessing.inputs,
        preprocessing=fitted.preprocessing.to_json(),
    )
    return net


def _check_task(net: Network, fitted: tables.Fitted) -> None:
    """Refuse an output or a loss that does not suit the target."""
    output, loss = net.model.activations[-1].name, net.model.loss.name
    if fitted.labels is None:
        if output == "softmax" or loss == "log_loss":
            raise ValueError(
                f"output {output!r} with loss {loss!r} is for classes, and the target is a "
                "quantity; leave them out, or use --task classification"
            )
        return
    wanted = "sigmoid" if net.model.sizes[-1] == 1 else "softmax"
    if output != wanted or (wanted == "softmax" and loss != "cross_entropy"):
        raise ValueError(
            f"output {output!r} with loss {loss!r} does not suit {len(fitted.labels)} classes; "
            f"leave --output and --loss out, or use --task regression"
        )


def _fit(
    net: Network,
    given: Options,
    rows: tables.Rows,
    held_out: tables.Rows | None,
    mapped: bool,
    watcher: progress.Training,
) -> bool:
    """Train; return whether Ctrl-C ended it. The best epoch's parameters are kept in any case."""
    validation = None
    if held_out is not None:
        validation = (held_out.X, held_out.Y, held_out.weight)
        if held_out.weight is None:
            validation = validation[:2]  # type: ignore[assignment]
    chosen = dict(given.fit)
    if chosen["shuffle"] == "auto":
        chosen["shuffle"] = "blocks" if mapped else "full"
    try:
        net.fit(
            rows.X,
            rows.Y,
            sample_weight=rows.weight,
            validation=validation,
            optimizer=given.optimizer,
            early_stopping=EarlyStopping(given.patience or _FOREVER, given.min_delta),
            callbacks=[watcher],
            progress=False,
            **chosen,
        )
    except KeyboardInterrupt:
        if net.history is None or net.history.best_epoch is None:
            kept = chosen.get("checkpoint")
            raise Interrupted(
                "interrupted before the first epoch was done: no model was written"
                + (f"; {kept} goes on with --resume" if kept and Path(kept).exists() else "")
            ) from None
        return True
    return False


def _scores(
    net: Network, rows: tables.Rows, held_out: tables.Rows | None
) -> dict[str, dict[str, float]]:
    """Return how well training rows and held-out rows are predicted."""
    predictor = tables.Predictor(net)
    parts = {"training": rows} | ({} if held_out is None else {"validation": held_out})
    return {name: predictor.score(part) for name, part in parts.items()}


@contextlib.contextmanager
def _folder(model: Path, needed: bool) -> Iterator[Path | None]:
    """Make a folder beside the model for the time of training, if it is needed."""
    if not needed:
        yield None
        return
    folder = model.with_name(model.name + _FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
