"""Errors that are raised in more than one place."""


class DivergenceError(ArithmeticError):
    """The loss or the parameters stopped being finite numbers while training.

    The network was given back the parameters it had at the start of that epoch.

    Attributes
    ----------
    epoch : int
        Epoch, counted from 0 within this call of `fit`.
    batch : int or None
        The first batch of that epoch whose loss is NaN or infinite; None if every loss was finite
        and only the parameters are not.
    learning_rate : float
        Learning rate at that batch.
    """

    def __init__(self, epoch: int, batch: int | None, learning_rate: float) -> None:
        super().__init__(epoch, batch, learning_rate)
        self.epoch, self.batch, self.learning_rate = epoch, batch, learning_rate

    def __str__(self) -> str:
        what = f"the loss of batch {self.batch}" if self.batch is not None else "a weight or a bias"
        return (
            f"training diverged: {what} of epoch {self.epoch} is NaN or infinite at "
            f"learning_rate {self.learning_rate:.6g}; the parameters from before that epoch were "
            "restored. Use a smaller learning_rate, scale X to about -1..1, or set clip_norm"
        )


def missing(package: str, extra: str) -> ImportError:
    """Return the error for an optional package that is not installed.

    Parameters
    ----------
    package : str
        What cannot be imported.
    extra : str
        The extra of gpubackprop that installs it.
    """
    return ImportError(
        f"{package} is not installed; install it with: python -m pip install 'gpubackprop[{extra}]'"
    )
