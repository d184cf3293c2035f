"""Losses as scikit-learn reports them, and what else a regressor can minimise.

They differ from the core's in the number that is reported alone, never in the gradient:
probabilities are clipped at the dtype's eps before the logarithm is taken, and the squared loss is
averaged over the outputs.
"""

import functools

import numpy as np

from gpubackprop.losses import ABSOLUTE, HUBER, POISSON, QUANTILE, Loss

#: Losses of a regressor by name, besides "squared_error".
REGRESSION = {
    "poisson": POISSON,
    "absolute": ABSOLUTE,
    "huber": HUBER,
    "quantile": QUANTILE,
}

_CLIPPED = "where(where(o < low, low, o) > high, high, where(o < low, low, o))"


@functools.cache
def classification(output: str, dtype: np.dtype) -> Loss:
    """Return the loss of a classifier.

    Parameters
    ----------
    output : {"softmax", "logistic"}
        Of classes that exclude each other, or of two classes or several labels.
    dtype : numpy.dtype
        What the network computes in.
    """
    eps = float(np.finfo(dtype).eps)
    if output == "softmax":
        name, activation, targets = "clipped_cross_entropy", "softmax", "classes"
        formula = f"-y * log({_CLIPPED})"
    else:
        name, activation, targets = "clipped_log_loss", "sigmoid", "unit"
        formula = f"-(y * log({_CLIPPED}) + (1 - y) * log(1 - {_CLIPPED}))"
    return Loss(
        name,
        f=formula,
        df="(o - y) / (o * (1 - o))",  # not used: `matched` has the only partner
        outputs=(activation,),
        matched={activation: "o - y"},
        targets=targets,
        low=eps,
        high=1 - eps,
    )


@functools.cache
def regression(loss: str | Loss, n_outputs: int) -> Loss:
    """Return the loss of a regressor.

    Parameters
    ----------
    loss : str or Loss
        "squared_error", a name in `REGRESSION`, or a loss of the user's own.
    n_outputs : int
    """
    if isinstance(loss, Loss):
        return loss
    if loss != "squared_error":
        return REGRESSION[loss]
    return Loss(
        "mean_squared",
        f="factor * (y - o) ** 2",
        df="o - y",
        matched={"identity": "o - y"},
        factor=0.5 / n_outputs,
    )


def output_activation(loss: str | Loss) -> str:
    """Return the name of the output activation that a regressor's loss goes with."""
    if isinstance(loss, str) and loss in REGRESSION:
        loss = REGRESSION[loss]
    outputs = loss.outputs if isinstance(loss, Loss) else None
    return "identity" if outputs is None else outputs[0]
