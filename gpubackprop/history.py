"""What a call of `fit` leaves behind, and the rule by which it stops early."""

import math
from dataclasses import dataclass, field


@dataclass
class History:
    """What happened in a call of `fit`: lists with one entry per epoch.

    Attributes
    ----------
    epoch : list of int
        Counted from 0.
    loss : list of float
        Mean loss over the epoch's rows, each batch's from before its update, without penalties.
    validation_loss : list of float
        After the epoch; empty without validation data.
    learning_rate : list of float
        At the epoch's last update.
    seconds : list of float
        Seconds spent training since `fit` began (validation and callbacks not counted).
    samples : list of int
        Rows trained on since `fit` began.
    backend, executor : str
        What did the work.
    threads : int
        Threads that the arithmetic may use.
    best_epoch : int or None
        Epoch whose parameters early stopping kept.
    stopped : str or None
        Why training ended before its last epoch: "early_stopping", "callback", "interrupted"; else
        None.
    """

    epoch: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    backend: str = ""
    executor: str = ""
    threads: int = 1
    best_epoch: int | None = None
    stopped: str | None = None

    def __repr__(self) -> str:
        if not self.epoch:
            return f"<History of 0 epochs on {self.backend}/{self.executor}>"
        validation = (
            f", validation_loss {self.validation_loss[-1]:.6g}" if self.validation_loss else ""
        )
        return (
            f"<History of {len(self.epoch)} epochs on {self.backend}/{self.executor}: "
            f"loss {self.loss[0]:.6g} -> {self.loss[-1]:.6g}{validation}, "
            f"{self.samples[-1] / max(self.seconds[-1], 1e-9):,.0f} samples/s>"
        )


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop early, and whether to keep the best parameters.

    Watches the validation loss if there is validation data, else the training loss.

    Parameters
    ----------
    patience : int, optional
        Epochs without improvement after which training stops, >= 1.
    min_delta : float, optional
        How much the loss must fall below the best one to count as an improvement, >= 0.
    restore_best : bool, optional
        Whether the network ends with the parameters of its best epoch.
    """

    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        if (
            isinstance(self.patience, bool)
            or not isinstance(self.patience, int)
            or self.patience < 1
        ):
            raise ValueError(f"patience must be an integer >= 1, got {self.patience!r}")
        if not (isinstance(self.min_delta, int | float) and 0 <= self.min_delta < math.inf):
            raise ValueError(f"min_delta must be a number >= 0, got {self.min_delta!r}")
