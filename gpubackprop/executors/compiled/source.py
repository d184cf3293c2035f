"""Writes the modules of loops that Numba compiles, from the functions of ours as they are."""

import ast
import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

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
#: What a compiled function takes as an argument of its own, by the annotation: the type, and how
#: the loop gets it. Arrays are read-only here, because such a parameter takes others too.
_GIVEN = {
    "Rows": ('types.Array(types.{dtype}, 2, "C", readonly=True)', "{name}.ctypes.data // {size}"),
    "Given": ("types.int64", "{name}"),
}


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


#: The modules of loops that are called by their address: compiled each for itself, when a job needs
#: one. Of each, arguments and statements of its functions by name.
KERNELS = {
    module.__name__.rpartition(".")[2]: {
        node.name: (_names(node), "\n".join(map(ast.unparse, node.body)).split("\n"))
        for node in _definitions(module)
        if not node.name.startswith("_")
    }
    for module in (kernels, micro, tiles, panels)
}
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
    functions : tuple of ast.FunctionDef
    kernels : tuple of str
        Keys of `KERNELS`: what it calls.
    """

    functions: tuple[ast.FunctionDef, ...]
    kernels: tuple[str, ...]

    @functools.cached_property
    def parameters(self) -> dict[str, str]:
        """What the compiled function reads from its first argument, an array of int64, in this
        order, and what it makes of each.
        """
        return {name: kind for name, kind in self._arguments.items() if kind not in _GIVEN}

    @functools.cached_property
    def given(self) -> dict[str, str]:
        """Its other arguments, and what each is."""
        return {name: kind for name, kind in self._arguments.items() if kind in _GIVEN}

    @functools.cached_property
    def _arguments(self) -> dict[str, str]:
        arguments = self.functions[-1].args.args
        return {one.arg: ast.unparse(one.annotation) if one.annotation else "" for one in arguments}


_PRODUCTS, _DIRECT = _definitions(products), _definitions(loop)
_AHEAD = [node for node in _DIRECT if node.name == "tell_ahead"]
_FORWARD = [node for node in _DIRECT if node.name == "forward"]
#: The loops over batches by name, and the one over rows that are predicted.
LOOPS = {
    "direct": Loop((*_PRODUCTS, *_DIRECT), ("kernels", "micro", "tiles", "panels")),
    "held back": Loop((*_AHEAD, *_definitions(held_back)), ("kernels", "micro", "tiles")),
    "predict": Loop(
        (*_PRODUCTS, *_FORWARD, *_definitions(predict_loop)),
        ("kernels", "micro", "tiles", "panels"),
    ),
}


@functools.lru_cache
def write_kernels(dtype: np.dtype, name: str) -> str:
    """Write the module of some kernels, the same for every job of a dtype."""
    parts = [header(dtype.name), f"@fast\n{print_mix()}"]
    if name in _OWN:
        parts += [text.strip() for text in _OWN[name](dtype.name)]
    parts += [by_address(name, names, body) for name, (names, body) in KERNELS[name].items()]
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
    return tuple(_fast(_ByAddress().visit(node)) for node in loop.functions)


def _entry(loop: Loop, dtype: np.dtype) -> str:
    """Print the function that Python calls: it reads `Loop.parameters` and runs the loop. One with
    nothing else to read has an address.
    """
    reading = {name: f"r[{i}]" for i, name in enumerate(loop.parameters)}
    for name, annotation in loop.parameters.items():
        pointer = _POINTERS.get(annotation)
        reading[name] = f"{pointer}({reading[name]})" if pointer else reading[name]
    kinds = ["types.int64"]
    for name, annotation in loop.given.items():
        kind, text = _GIVEN[annotation]
        kinds.append(kind.format(dtype=dtype.name))
        reading[name] = text.format(name=name, size=dtype.itemsize)
    last = loop.functions[-1]
    returns = last.returns is not None and ast.unparse(last.returns) == "int"
    result = "types.int64" if returns else "types.void"
    values = ", ".join(reading[name] for name in _names(last))
    head = f"def entry({', '.join(['run', *loop.given])}):"
    lines = [head, "    r = codes(run)", f"    return {last.name}({values})"]
    made, options = ("njit", ", nogil=True") if loop.given else ("cfunc", "")
    options = f'cache=True, error_model="numpy"{options}'
    return "\n".join([f"@{made}({result}({', '.join(kinds)}), {options})", *lines])
