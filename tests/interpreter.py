"""Code in a fresh interpreter: without what conftest.py sets for its own, such as cpucuda."""

import os
import subprocess
import sys
from pathlib import Path

import gpubackprop

ROOT = Path(gpubackprop.__file__).parent.parent
#: Environment variables that are conftest.py's and cpucuda's.
OURS = ("GPUBACKPROP_BACKEND", "CUPY_CACHE_DIR", "CUPY_ACCELERATORS", "CUDA_PATH")

FORKED = """
before = outputs()
child = os.fork()
same = all(np.array_equal(one, two) for one, two in zip(before, outputs(), strict=True))
if child == 0:
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1], same)
"""


def run(code, *path, warnings="error", timeout=120, **environment):
    """Run code in a fresh interpreter; returns what it printed.

    Parameters
    ----------
    code : str
    *path : path-like
        Folders in which modules are looked for first.
    warnings : str, optional
        What a warning is, at import too: "error" makes it a failure.
    timeout : float, optional
        Seconds that it may take.
    **environment : str
        Environment variables.
    """
    env = {name: value for name, value in os.environ.items() if name not in OURS}
    env |= {"PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)])} | environment
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", code],
        env=env, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_forked(code):
    """Run code that defines `outputs`, a function that returns arrays: before a fork, after it, and
    in the child. Fails unless they are the same bits.
    """
    start = "import os, numpy as np, gpubackprop as gb\n"
    # A warning that forking is unsafe with threads is none of ours.
    assert run(start + code + FORKED, warnings="default").split() == ["0", "True"]
