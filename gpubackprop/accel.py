"""Runs an unchanged script with this library's MLPs instead of scikit-learn's.

``python -m gpubackprop.accel SCRIPT.py [ARGUMENTS]``, or ``gpubackprop.accel.install()`` before the
script's imports, or ``%load_ext gpubackprop.accel`` in IPython. What is imported from
``sklearn.neural_network`` afterwards is `gpubackprop.sklearn`'s; a class that is made with a
parameter which that does not know is scikit-learn's own, with one warning.
"""

import inspect
import runpy
import sys
import warnings
from typing import Any

from gpubackprop.errors import missing

_NAMES = ("MLPClassifier", "MLPRegressor")
_MODULES = ("sklearn.neural_network", "sklearn.neural_network._multilayer_perceptron")
_originals: dict[str, type] = {}
_warned: set[str] = set()


def _refusal(ours: type, arguments: tuple[Any, ...], parameters: dict[str, Any]) -> str | None:
    """Return why our class cannot be made with these, in words; None if it can."""
    try:
        inspect.signature(ours).bind(*arguments, **parameters)
    except TypeError as error:
        return str(error)
    return None


def _substitute(name: str, ours: Any, original: Any) -> type:
    """Return our class, which makes scikit-learn's where it does not know a parameter."""

    def new(cls: type, *arguments: Any, **parameters: Any) -> Any:
        reason = _refusal(ours, arguments, parameters) if cls is made else None
        if reason is None:
            return object.__new__(cls)
        if name not in _warned:
            _warned.add(name)
            warnings.warn(
                f"gpubackprop.accel uses scikit-learn's {name}: {reason}", UserWarning, stacklevel=2
            )
        return original(*arguments, **parameters)

    def reduce(self: Any) -> tuple[Any, ...]:
        # So that it loads where nothing is installed: as our class.
        return object.__new__, (ours,), self.__getstate__()

    members = {
        "__new__": new, "__reduce__": reduce, "__init__": ours.__init__,
        "__doc__": ours.__doc__, "__module__": ours.__module__,
    }  # fmt: skip
    made: type = type(ours)(name, (ours,), members)
    return made


def install() -> None:
    """Put this library's classes where scikit-learn's are imported from. Twice does no harm.

    Raises
    ------
    ImportError
        If scikit-learn is not installed, or is older than 1.9.
    """
    import gpubackprop.sklearn as ours

    try:
        import sklearn.neural_network._multilayer_perceptron as private
    except ImportError as error:
        raise missing("scikit-learn 1.9 or newer", "sklearn") from error
    if _originals:
        return
    for name in _NAMES:
        _originals[name] = getattr(private, name)
        made = _substitute(name, getattr(ours, name), _originals[name])
        for module in _MODULES:
            setattr(sys.modules[module], name, made)


def uninstall() -> None:
    """Put scikit-learn's classes back."""
    for name, original in _originals.items():
        for module in _MODULES:
            setattr(sys.modules[module], name, original)
    _originals.clear()
    _warned.clear()


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext gpubackprop.accel``."""
    install()


def unload_ipython_extension(ipython: Any) -> None:
    """``%unload_ext gpubackprop.accel``."""
    uninstall()


def main(arguments: list[str]) -> int:
    """Run a script; returns the exit status for a wrong call."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m gpubackprop.accel SCRIPT.py [ARGUMENTS]", file=sys.stderr)
        return 0 if arguments else 2
    install()
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
