"""scikit-learn's multi-layer perceptrons, name for name and number for number, on this library's
core.

``from gpubackprop.sklearn import MLPClassifier, MLPRegressor`` instead of ``from
sklearn.neural_network import ...`` is all that a script has to change.
"""

from typing import TYPE_CHECKING, Any

from gpubackprop.errors import missing

if TYPE_CHECKING:
    from gpubackprop.sklearn.classifier import MLPClassifier
    from gpubackprop.sklearn.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]


def __getattr__(name: str) -> Any:
    """Load the estimators when they are first asked for: scikit-learn need not be installed."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sklearn.callback import CallbackSupportMixin  # noqa: F401
    except ImportError as error:
        raise missing("scikit-learn 1.9 or newer", "sklearn") from error
    from gpubackprop.sklearn.classifier import MLPClassifier
    from gpubackprop.sklearn.regressor import MLPRegressor

    globals().update(MLPClassifier=MLPClassifier, MLPRegressor=MLPRegressor)
    return globals()[name]


def __dir__() -> list[str]:
    return [*globals(), *__all__]
