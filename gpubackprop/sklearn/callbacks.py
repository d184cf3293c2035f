"""scikit-learn's callbacks around `fit`: one task for each epoch or iteration."""

from typing import Any

#: Private attributes that a copy of the estimator needs to predict.
_PRIVATE = ("_label_binarizer", "_sizes", "_dropout_seed")


def fitted(estimator: Any) -> dict[str, Any]:
    """Return what makes a copy of an estimator ready to predict."""
    attributes = {
        name: value
        for name, value in vars(estimator).items()
        if (name.endswith("_") and not name.startswith("_")) or name in _PRIVATE
    }
    for name in ("coefs_", "intercepts_"):
        attributes[name] = [array.copy() for array in attributes[name]]
    return attributes


class Tasks:
    """Tells the callbacks of an estimator what happens in `fit`.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    X, y : array
        Training data, which hooks may ask for.

    Attributes
    ----------
    active : bool
        Whether there are callbacks at all.
    """

    def __init__(self, estimator: Any, X: Any, y: Any) -> None:
        self.estimator, self.data = estimator, {"X": X, "y": y}
        self.active = bool(getattr(estimator, "_skl_callbacks", ()))
        self._root: Any = None
        self._task: Any = None
        if self.active or hasattr(estimator, "_parent_callback_ctx"):
            self._root = estimator._init_callback_context(max_subtasks=estimator.max_iter)

    def begin(self) -> None:
        """Begin `fit`."""
        if self._root is not None:
            self._root.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def begin_epoch(self) -> None:
        """Begin an epoch."""
        if self._root is not None and self.active:
            self._task = self._root.subcontext(task_name="epoch")
            self._task.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def end_epoch(self) -> bool:
        """End an epoch; tell whether a callback wants to stop. `coefs_` must be up to date."""
        task, self._task = self._task, None
        if task is None:
            return False
        stop: bool = task.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=lambda: fitted(self.estimator),
            **self.data,
        )
        return stop

    def end(self) -> None:
        """End `fit`."""
        self.end_epoch()
        if self._root is not None:
            self._root.call_on_fit_task_end(
                estimator=self.estimator,
                reconstruction_attributes=lambda: fitted(self.estimator),
                **self.data,
            )
