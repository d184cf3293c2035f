"""``gpubackprop train``: a network from a table of data."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from gpubackprop import tables
from gpubackprop.cli import options, shared
from gpubackprop.cli.files import writable
from gpubackprop.cli.options import names
from gpubackprop.cli.output import Interrupted
from gpubackprop.cli.report import kept, show_trained
from gpubackprop.cli.training import Options, train
from gpubackprop.executors import EXECUTORS
from gpubackprop.losses import LOSSES
from gpubackprop.optimizers import OPTIMIZERS
from gpubackprop.schedules import SCHEDULES

EXAMPLES = (
    "train iris.csv --target species",
    "train houses.parquet --target price --hidden 64,32 --activation relu,tanh --dropout 0.1",
    "train rows.csv --target y --optimizer sgd --learning-rate 0.1 --momentum 0.9 --batch-size 256",
    "train rows.csv --target y --schedule cosine:warmup=2 --patience 0 --epochs 50 --seed 1",
    "train large.csv --target y --checkpoint run.ckpt --resume --model large.safetensors",
)
_OPTIMIZER, _LEARNING_RATE, _EPOCHS, _PATIENCE, _VALIDATION = "adam", 0.001, 100, 10, 0.1


def command() -> Callable[..., None]:
    """Return the function that typer reads."""
    import typer

    def option(panel: str, text: str, *flags: str, **more: Any) -> Any:
        return typer.Option(*flags, help=text, rich_help_panel=panel, **more)

    table, net, fit, rule = "The table", "The network", "Training", "The optimiser"
    end, rest = "When it ends", "Files and output"

    def train_(
        data: Annotated[Path, shared.data_argument()],
        target: Annotated[
            str | None,
            option(table, "Column to predict. (default: Y of an .npz file)", "--target", "-t"),
        ] = None,
        drop: Annotated[str | None, option(table, "Columns to leave out, such as id,name.")] = None,
        categorical: Annotated[
            str | None, option(table, "Columns of numbers that stand for categories.")
        ] = None,
        weight: Annotated[str | None, option(table, "Column of sample weights.")] = None,
        task: Annotated[
            str, option(table, "auto, classification or regression: auto looks at the target.")
        ] = "auto",
        missing: Annotated[list[str] | None, shared.table_option("missing", table)] = None,
        separator: Annotated[str | None, shared.table_option("separator", table)] = None,
        header: Annotated[bool, shared.table_option("header", table)] = True,
        most_categories: Annotated[
            int, option(table, "A column with more different texts is refused.")
        ] = 100,
        validation: Annotated[
            float, option(table, "Share of the rows that is held out, to stop by. 0 for none.")
        ] = _VALIDATION,
        scale_target: Annotated[
            bool,
            option(
                table,
                "Train on a quantity in standard deviations from its mean; only "
                "with output identity.",
                "--scale-target/--no-scale-target",
            ),
        ] = True,
        in_memory: Annotated[
            float,
            option(
                table,
                "MiB that prepared rows may take in memory; more are kept in "
                "files beside the model meanwhile.",
            ),
        ] = 512,
        hidden: Annotated[
            str, option(net, "Units of each hidden layer, such as 64,32; none for none.")
        ] = "64",
        activation: Annotated[
            str,
            option(
                net,
                "Of the hidden layers, one or one each, such as relu,tanh or leaky_relu:slope=0.1.",
            ),
        ] = "relu",
        output: Annotated[
            str | None, option(net, "Activation of the output. (default: by the target)")
        ] = None,
        loss: Annotated[
            str | None,
            option(
                net,
                f"One of {', '.join(LOSSES)}, such as huber:limit=0.5. (default: by the output)",
            ),
        ] = None,
        dropout: Annotated[
            str, option(net, "Chance that a hidden unit is dropped, one or one each.")
        ] = "0",
        bias: Annotated[bool, option(net, "Layers with biases.", "--bias/--no-bias")] = True,
        init: Annotated[
            str, option(net, "How weights start, such as he_normal; auto is by the activation.")
        ] = "auto",
        dtype: Annotated[str, option(net, "float32 or float64.")] = "float32",
        seed: Annotated[
            int, option(net, "Of weights, order of rows, dropout and held-out rows.")
        ] = 0,
        batch_size: Annotated[
            str | None, option(fit, "Rows of an update: 1 is SGD, full is batch. (default: 32)")
        ] = None,
        epochs: Annotated[int, option(fit, "Passes over the data, at most.")] = _EPOCHS,
        shuffle: Annotated[
            str, option(fit, "full, blocks or none; auto is blocks for rows kept in files.")
        ] = "auto",
        class_weight: Annotated[
            str | None, option(fit, "balanced, or a factor for classes, such as yes=5,no=1.")
        ] = None,
        backend: Annotated[str, option(fit, "auto, numpy, cupy, cupy:1, ...")] = "auto",
        executor: Annotated[str, option(fit, f"auto or one of {', '.join(EXECUTORS)}.")] = "auto",
        threads: Annotated[
            int | None, option(fit, "Threads that training may use. (default: all processors)")
        ] = None,
        precision: Annotated[
            str | None,
            option(fit, "tf32, float16 or bfloat16, on a GPU that has it. (default: full)"),
        ] = None,
        optimizer: Annotated[str, option(rule, f"One of {', '.join(OPTIMIZERS)}.")] = _OPTIMIZER,
        learning_rate: Annotated[
            float | None, option(rule, "Step size. (default: the optimiser's own)")
        ] = None,
        schedule: Annotated[
            str | None,
            option(
                rule,
                f"Of the learning rate: {', '.join(SCHEDULES)}, such as step:every=10,factor=0.5.",
            ),
        ] = None,
        momentum: Annotated[float | None, option(rule, "Of sgd, in 0..1.")] = None,
        nesterov: Annotated[bool, option(rule, "Nesterov's momentum.", "--nesterov")] = False,
        l1: Annotated[float | None, option(rule, "Factor of sum(|W|).")] = None,
        l2: Annotated[float | None, option(rule, "Factor of sum(W ** 2) / 2.")] = None,
        weight_decay: Annotated[float | None, option(rule, "Decoupled decay.")] = None,
        clip_norm: Annotated[float | None, option(rule, "Largest norm of a gradient.")] = None,
        setting: Annotated[
            list[str] | None,
            option(rule, "Any other setting, such as beta1=0.8 (may be given several times)."),
        ] = None,
        patience: Annotated[
            int,
            option(
                end,
                "Epochs without a better loss after which training stops; 0: never. "
                "The best epoch is kept in any case.",
            ),
        ] = _PATIENCE,
        min_delta: Annotated[
            float, option(end, "How much a loss must fall to be a better one.")
        ] = 0.0,
        model: Annotated[
            Path | None,
            option(
                rest,
                "File to write. (default: DATA with the ending .safetensors, here)",
                "--model",
                "-m",
            ),
        ] = None,
        checkpoint: Annotated[
            Path | None, option(rest, "File that the run is written to now and then.")
        ] = None,
        every: Annotated[
            str | None, option(rest, "Seconds between checkpoints, or epoch. (default: 60)")
        ] = None,
        resume: Annotated[
            bool, option(rest, "Go on from the checkpoint, if there is one.", "--resume")
        ] = False,
        as_json: Annotated[bool, option(rest, "Print JSON.", "--json")] = False,
    ) -> None:
        """Train a network on a table of data, and write it to a file.

        Numbers are scaled, categories become one input each, missing values are filled in; how is
        stored with the network. Ctrl-C ends training and keeps the best epoch.
        """
        settings = options.settings("setting", setting or [])
        settings |= {
            "momentum": momentum, "nesterov": nesterov or None, "l1": l1, "l2": l2,
            "weight_decay": weight_decay, "clip_norm": clip_norm,
        }  # fmt: skip
        hidden_ = options.integers("hidden", hidden)
        chosen_loss = None if loss is None else options.loss(loss)
        output_ = None if output is None else options.activation("output", output)
        if output_ is None and chosen_loss is not None and chosen_loss.name == "poisson":
            output_ = options.activation("output", "exp")
        given = Options(
            data=data,
            model=model or Path(f"{data.name.removesuffix('.gz').rsplit('.', 1)[0]}.safetensors"),
            plan=tables.Plan(
                target=target, weight=weight, drop=names(drop) or (),
                categorical=names(categorical) or (), task=task, validation=validation, seed=seed,
                most_categories=most_categories,
                scale_target=scale_target and (output_ is None or output_.name == "identity"),
            ),
            table={"separator": separator, "header": header, "missing_values": missing or []},
            network={
                "hidden": hidden_,
                "activation": [
                    options.activation("activation", one) for one in names(activation) or ()
                ],
                "output": output_, "loss": chosen_loss, "dropout": _numbers("dropout", dropout),
                "bias": bias, "init": init, "backend": backend, "dtype": dtype, "rng": seed,
            },
            optimizer=options.optimizer(optimizer, learning_rate, schedule, epochs, settings),
            class_weight=class_weight,
            patience=patience,
            min_delta=min_delta,
            in_memory=in_memory,
            fit={
                "batch_size": _batch_size(batch_size), "epochs": epochs,
                "shuffle": False if shuffle == "none" else shuffle, "executor": executor,
                "threads": threads, "precision": precision, "checkpoint": checkpoint,
                "resume": resume,
                "every": None if every is None else options.value(every),
            },
        )  # fmt: skip
        _check(given)
        trained = train(given)
        if as_json:
            print(json.dumps(trained.to_dict(), indent=1))
        else:
            show_trained(trained)
        if trained.interrupted:
            raise Interrupted(kept(trained))

    return train_


def _numbers(argument: str, text: str) -> float | list[float]:
    """Read "0.2" or "0.2,0.5"."""
    found = [options.value(part) for part in names(text) or ()]
    if not found or any(isinstance(one, bool | str) for one in found):
        raise ValueError(f"{argument} must be a number in 0..1, or one for each, got {text!r}")
    return found[0] if len(found) == 1 else found


def _batch_size(text: str | None) -> Any:
    """Read an integer or "full"."""
    return None if text is None else options.value(text)


def _check(given: Options) -> None:
    """Refuse, before any work, what would be refused after it."""
    for name, number, low in (
        ("patience", given.patience, 0),
        ("min_delta", given.min_delta, 0),
        ("in_memory", given.in_memory, 0),
        ("epochs", given.fit["epochs"], 1),
        ("seed", given.plan.seed, 0),
    ):
        if not low <= number < math.inf:
            raise ValueError(f"{name} must be a number >= {low}, got {number}")
    if given.fit["shuffle"] not in ("auto", "full", "blocks", False):
        raise ValueError(
            f"shuffle must be auto, full, blocks or none, got {given.fit['shuffle']!r}"
        )
    if given.model.is_dir():
        raise ValueError(f"model must be a file to write, got the folder {str(given.model)!r}")
    if given.model.resolve() == given.data.resolve():
        raise ValueError(f"model must be another file than DATA, got {str(given.model)!r}")
    writable(given.model.parent, "model must be in a folder that can be written to")
