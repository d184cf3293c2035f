"""Usage: python -m cpucuda MODULE [ARGUMENT ...], for example: python -m cpucuda pytest"""

import runpy
import sys

import cpucuda

if len(sys.argv) < 2:
    sys.exit(__doc__)
cpucuda.install()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
