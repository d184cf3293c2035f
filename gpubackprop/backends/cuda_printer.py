"""Prints an expression as the parts of a CuPy `ElementwiseKernel`. Needs no CuPy."""

from dataclasses import dataclass

from gpubackprop import dropout
from gpubackprop.expressions import Expression, to_cuda


@dataclass(frozen=True)
class Kernel:
    """The four strings that an `ElementwiseKernel` is made of; T stands for float or double.

    Attributes
    ----------
    name : str
    inputs, outputs : str
        Typed parameters: arrays, then numbers.
    operation : str
        CUDA C++, run for each element.
    """

    name: str
    inputs: str
    outputs: str
    operation: str

    def __str__(self) -> str:
        lines = self.operation.replace("\n", "\n    ")
        return f"{self.name}({self.inputs}) -> ({self.outputs})\n    {lines}"


def to_kernel(expression: Expression) -> Kernel:
    """Print an expression as a kernel; its constants are parameters behind its scalars."""
    folded = expression.folded
    inputs = [*expression.arguments, *expression.scalars, *folded.constants]
    lines = []
    for target, node in folded.statements:
        declared = "" if target in expression.outputs else "T "
        lines.append(f"{declared}{target} = {to_cuda(node)};")
    return Kernel(
        expression.name,
        ", ".join(f"T {name}" for name in inputs),
        ", ".join(f"T {name}" for name in expression.outputs),
        "\n".join(lines),
    )


def dropout_kernel() -> Kernel:
    """Print `gpubackprop.dropout`'s hash; `i` is the element's index in the array."""
    lines = ["unsigned long long x = (first + i & 0xFFFFFFFFull) ^ key;", *mix_lines()]
    lines.append("out = x >= threshold ? scale : T(0);")
    inputs = "uint64 key, uint64 first, uint64 threshold, T scale"
    return Kernel("dropout_mask", inputs, "T out", "\n".join(lines))


def mix_lines() -> list[str]:
    """Print `dropout.mix` on a word x of 64 bits."""
    lines = []
    for step, constant in dropout.MIX:
        if step == "xor_shift":
            lines.append(f"x ^= x >> {constant};")
        else:
            lines.append(f"x = x * {constant:#x}ull & 0xFFFFFFFFull;")
    return lines
