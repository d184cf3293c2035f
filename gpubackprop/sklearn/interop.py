"""Arrays and frames of other libraries, brought to the host for scikit-learn's validation."""

from typing import Any

import numpy as np


def to_host(x: Any) -> Any:
    """Return what scikit-learn's validation reads; x itself if it lives on the host.

    CuPy arrays, tensors of PyTorch (also those on a GPU or with a gradient), JAX arrays and cuDF
    frames and series are copied to the host; cuDF's names of columns are kept.
    """
    if x is None or isinstance(x, np.ndarray | list):
        return x
    library = type(x).__module__.partition(".")[0]
    if library == "cudf":
        return x.to_pandas()
    if library == "torch":
        return x.detach().cpu().numpy()
    if library == "cupy":
        return x.get()
    if library in ("jax", "jaxlib"):
        return np.asarray(x)
    if hasattr(x, "__cuda_array_interface__"):
        from gpubackprop.backends.cupy_backend import to_host as copied

        return copied(x)
    return x
