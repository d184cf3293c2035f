"""Numba and all that it imports before it loads a first function: half of it comes that late."""

from numba.core.registry import cpu_target

cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
