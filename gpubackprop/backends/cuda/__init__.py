"""CUDA kernels: structure in the `.cu` files, formulas printed by `functions`. Needs no CuPy."""
