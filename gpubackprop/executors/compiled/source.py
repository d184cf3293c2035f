"""Writes the modules of loops that Numba compiles, from the functions of ours as they are."""

import ast
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from gpubackprop.executors.compiled import (
    amx,
    held_back,
    kernels,
    loop,
    micro,
    panels,
    predict_loop,
    products,
    tiles,
)  # fmt: skip
from gpubackprop.executors.compiled.dots import dots
from gpubackprop.executors.compiled.formulas import by_address, join
from gpubackprop.executors.compiled.header import header
from gpubackprop.executors.compiled.printer import print_mix
from gpubackprop.executors.compiled.vectors import vectors

#: Integers that are passed to what is called by its address; or, of a few kernels, so many.
N_ARGUMENTS, N_MOST = 7, 15
_POINTERS = {"Ints": "codes", "Numbers": "numbers", "Doubles": "doubles"}
#: What a compiled function takes as an argument of its own, by the annotation, and what the loop
#: makes of it. That is an array, or where this Python object is: as NumPy's C interface has it, the
#: pointer to the data stands behind what all objects begin with, then one to the axes' lengths.
_GIVEN = {
    "Rows": "codes({name} >> 3)[{head}] // {size}",
    "Length": "codes(codes(X >> 3)[{head} + 2] >> 3)[0]",
}
#: Printed behind the entry of a loop that takes arrays: a built-in function of Python's. The object
#: that it is bound to is an array, of the loop's arguments and of what `objects.builtin` tells.
_BUILTIN = """
@cfunc("int64(int64, int64, int64)", error_model="numpy")
def builtin(bound, arguments, n):
    own, given = codes(codes(bound >> 3)[{head}] >> 3), codes(arguments >> 3)
    answer = own[1] if enter(own[0], {given}) == 0 else own[2]
    call_one(own[3], answer)
    return answer
""".strip()


def _definitions(module: ModuleType) -> list[ast.FunctionDef]:
    """Return the functions of one of our modules, without docstrings."""
    parsed = ast.parse(inspect.getsource(module)).body
    found = [node for node in parsed if isinstance(node, ast.FunctionDef)]
    for node in found:
        node.body = node.body[1:]
    return found


def _helpers(module: ModuleType) -> list[str]:
    """Print the functions of a module whose names begin with "_": into what calls them."""
    return [_fast(node) for node in _definitions(module) if node.name.startswith("_")]


def _fast(node: ast.FunctionDef) -> str:
    """Print a function, without annotations, that becomes part of its callers."""
    body = "\n".join(map(ast.unparse, node.body)).replace("\n", "\n    ")
    return f"@fast\ndef {node.name}({', '.join(_names(node))}):\n    {body}"


def _names(node: ast.FunctionDef) -> tuple[str, ...]:
    return tuple(one.arg for one in node.args.args)


def _functions(module: ModuleType) -> tuple[str, ...]:
    """Return the names of a module's own functions that others call."""
    return tuple(
        name for name, one in vars(module).items()
        if isinstance(one, FunctionType) and one.__module__ == module.__name__ and name[0] != "_"
    )  # fmt: skip


#: The modules of loops that are called by their address: compiled each for itself, when a job needs
#: one. Of each, the names of its functions.
_MODULES = {"kernels": kernels, "micro": micro, "tiles": tiles, "panels": panels}
KERNELS = {name: _functions(module) for name, module in _MODULES.items()}
#: What is printed into such a module besides: the instructions that it needs, and its functions
#: that nothing else calls.
_OWN: dict[str, Callable[[str], list[str]]] = {
    "tiles": lambda dtype: [vectors(dtype), dots(dtype), *_helpers(tiles)],
    "panels": lambda dtype: [vectors(dtype), amx.instructions(), *_helpers(panels)],
}
#: Where the address of each stands in the table that the loops over batches are given.
PLACES = {name: i for i, name in enumerate(itertools.chain(*KERNELS.values()))}


@dataclass(frozen=True)
class Loop:
    """A loop over batches, of which `write_loop` makes a module for Numba.

    Attributes
    ----------
    run : callable
        The function that is entered.
    modules : tuple of (module, names)
        Whose functions become part of it, all of them if no names are given.
    kernels : tuple of str
        Keys of `KERNELS`: what it calls.
    """

    run: Callable[..., Any]
    modules: tuple[tuple[ModuleType, tuple[str, ...]], ...]
    kernels: tuple[str, ...]

    @functools.cached_property
    def parameters(self) -> dict[str, str]:
        """What the compiled function reads from its first argument, an array of int64, in this
        order, and what it makes of each.
        """
        return {name: kind for name, kind in self.arguments.items() if kind not in _GIVEN}

    @functools.cached_property
    def given(self) -> dict[str, str]:
        """Its other arguments, and what each is."""
        return {name: kind for name, kind in self.arguments.items() if kind in _GIVEN}

    @property
    def arrays(self) -> tuple[str, ...]:
        """Those of them that are arrays."""
        return tuple(name for name, kind in self.given.items() if kind == "Rows")

    @property
    def returns(self) -> bool:
        """Whether it returns an integer."""
        return bool(self.run.__annotations__["return"] == "int")

    @functools.cached_property
    def arguments(self) -> dict[str, str]:
        """Its arguments, as they are annotated."""
        return {name: one for name, one in self.run.__annotations__.items() if name != "return"}

    def functions(self) -> Iterator[ast.FunctionDef]:
        """Yield its functions, in the order of their calls."""
        for module, names in self.modules:
            yield from (node for node in _definitions(module) if not names or node.name in names)


_PRODUCTS = products, ()
_ALL_KERNELS = "kernels", "micro", "tiles", "panels"
#: The loops over batches by name, and the one over rows that are predicted.
LOOPS = {
    "direct": Loop(loop.train, (_PRODUCTS, (loop, ())), _ALL_KERNELS),
    "held back": Loop(
        held_back.train, ((loop, ("tell_ahead",)), (held_back, ())), ("kernels", "micro", "tiles")
    ),
    "predict": Loop(
        predict_loop.predict, (_PRODUCTS, (loop, ("forward",)), (predict_loop, ())), _ALL_KERNELS
    ),
}


@functools.lru_cache
def write_kernels(dtype: np.dtype, name: str) -> str:
    """Write the module of some kernels, the same for every job of a dtype."""
    parts = [header(dtype.name), f"@fast\n{print_mix()}"]
    if name in _OWN:
        parts += [text.strip() for text in _OWN[name](dtype.name)]
    for node in _definitions(_MODULES[name]):
        if not node.name.startswith("_"):
            body = "\n".join(map(ast.unparse, node.body)).split("\n")
            parts.append(by_address(node.name, _names(node), body))
    return join(parts)


@functools.lru_cache
def write_loop(dtype: np.dtype, name: str) -> str:
    """Write the module of a loop over batches, the same for every job of a dtype."""
    parts = [header(dtype.name), f"@fast\n{print_mix()}"]
    return join([*parts, *_loop_functions(LOOPS[name]), _entry(LOOPS[name], dtype)])


class _ByAddress(ast.NodeTransformer):
    """Turns a call of a kernel into one by its address."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in PLACES:
            return node
        given = ", ".join(ast.unparse(argument) for argument in node.args)
        few = len(node.args) <= N_ARGUMENTS
        padding = ", 0" * ((N_ARGUMENTS if few else N_MOST) - len(node.args))
        called = "call" if few else "call_long"
        return ast.parse(f"{called}(K[{PLACES[name]}], {given}{padding})", mode="eval").body


@functools.cache
def _loop_functions(loop: Loop) -> tuple[str, ...]:
    """Print the functions of a loop, without annotations: once, as it changes what it prints."""
    return tuple(_fast(_ByAddress().visit(node)) for node in loop.functions())


def _entry(loop: Loop, dtype: np.dtype) -> str:
    """Print the functions that Python calls: they read `Loop.parameters` and run the loop."""
    reading = {name: f"r[{i}]" for i, name in enumerate(loop.parameters)}
    for name, annotation in loop.parameters.items():
        pointer = _POINTERS.get(annotation)
        reading[name] = f"{pointer}({reading[name]})" if pointer else reading[name]
    head = object.__basicsize__ // 8
    for name, annotation in loop.given.items():
        reading[name] = _GIVEN[annotation].format(name=name, size=dtype.itemsize, head=head)
    result = "int64" if loop.returns else "void"
    values = ", ".join(reading[name] for name in loop.arguments)
    names = ["run", *loop.arrays]
    lines = [
        f"@fast\ndef enter({', '.join(names)}):",
        "    r = codes(run)",
        f"    return {loop.run.__name__}({values})\n\n",
        f'@cfunc("{result}({", ".join(["int64"] * len(names))})", error_model="numpy")',
        f"def entry({', '.join(names)}):",
        f"    return enter({', '.join(names)})",
    ]
    if loop.arrays:
        given = ", ".join(f"given[{i}]" for i in range(len(loop.arrays)))
        lines += ["\n", _BUILTIN.format(head=head, given=given)]
    return "\n".join(lines)
