"""Names for types that carry no code."""

from typing import Any, TypeAlias

#: An array of some backend: a ``numpy.ndarray`` or a ``cupy.ndarray``. CuPy need not be installed,
#: and the two share no base class, so the type checker is told nothing more.
Array: TypeAlias = Any
