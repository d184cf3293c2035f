"""Compiled programs as files of machine code, read into memory by LLVM's loader.

Numba takes a second and 130 MiB to be imported, and is needed to compile. What it has compiled are
functions of integers with an address: their machine code is kept, and LLVM, which `llvmlite` wraps,
finds it a place in milliseconds.
"""

import ctypes
import functools
import io
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

#: Whether LLVM's loader alone reads machine code. Elsewhere, where nobody has seen it do so, it is
#: read as Numba reads its own, and Numba is imported for that: what a loader cannot resolve ends
#: the whole process.
LOADS_ALONE = sys.platform == "linux"
#: What LLVM makes of loops.
_CALLED = ("memset", "memcpy", "memmove")
#: What Numba would call if a function raised an error, which none does. Programs have stubs of
#: their own, in a file of this name: LLVM's table of symbols is the whole process's, and Numba may
#: be used for something else.
_STUBS = "stubs"
_NEVER_CALLED = (
    "numba_gil_ensure", "numba_gil_release", "numba_do_raise", "numba_unpickle", "NRT_Free",
    "numba_runtime_build_excinfo_struct", "PyErr_Clear", "PyErr_SetNone", "PyErr_SetString",
    "PyErr_WriteUnraisable", "PyExc_StopIteration", "PyExc_SystemError", "PyExc_RuntimeError",
    "PyUnicode_FromString", "PyBytes_FromStringAndSize", "Py_DecRef",
)  # fmt: skip


class _Method(ctypes.Structure):
    """PyMethodDef of Python's C interface."""

    _fields_ = (
        ("name", ctypes.c_char_p), ("call", ctypes.c_void_p), ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )  # fmt: skip


#: METH_FASTCALL: it is given the object that it is bound to, where its arguments are, and how many.
_FASTCALL = 0x80


class Function:
    """A compiled function of 64-bit integers.

    Attributes
    ----------
    address : int
    """

    def __init__(self, address: int) -> None:
        self.address = address
        self._method = _Method(b"compiled", address, _FASTCALL, None)

    def call(self, n_arguments: int, *, returns: bool = False) -> Any:
        """Return it as Python calls it, with so many integers, and with one as its result or none.

        Other threads of Python run meanwhile.
        """
        result = ctypes.c_int64 if returns else None
        return ctypes.CFUNCTYPE(result, *[ctypes.c_int64] * n_arguments)(self.address)

    def builtin(self, run: int) -> Callable[..., bool]:
        """Return it as a built-in function of Python's, which is called ten times as quickly. Other
        threads wait meanwhile.

        Parameters
        ----------
        run : int
            What it reads first of the array that it is bound to. Behind it stand the objects False
            and True, one of which it returns, and the function that counts a reference to it.
        """
        api = ctypes.pythonapi
        count = ctypes.cast(api.Py_IncRef, ctypes.c_void_p).value
        bound = np.array([run, id(False), id(True), count], np.int64)
        make = ctypes.PYFUNCTYPE(
            ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object
        )(("PyCFunction_NewEx", api))
        made: Callable[..., bool] = make(ctypes.addressof(self._method), bound, None)
        return made


#: What owns machine code: it stays as long as the process, as addresses of it do.
_OWNERS: list[Any] = []


class Program:
    """The functions of a program, by their names."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Function:
        raise AttributeError(f"the program has no function {name!r}")


def compiled(text: str, name: str) -> tuple[Program, bytes]:
    """Have Numba compile a program; return it, and what `read` takes."""
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(text, f"<{name}>", "exec"), namespace)
    made = {key: one for key, one in namespace.items() if hasattr(one, "native_name")}
    functions = {key: Function(one.address) for key, one in made.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for key, one in made.items():
            # Numba keeps what LLVM has made of a library for its own cache.
            code = one._library._get_compiled_object()
            archive.writestr(f"{key}/{one.native_name}", code)
        archive.writestr(_STUBS, _stubs())
    _OWNERS.append((made, functions))
    return Program(functions), file.getvalue()


def _stubs() -> bytes:
    """Return machine code of functions that are never called."""
    from llvmlite import binding

    text = "\n".join(f"define void @{name}() {{ ret void }}" for name in _NEVER_CALLED)
    machine = _target().create_target_machine(jit=True)
    code: bytes = machine.emit_object(binding.parse_assembly(text))
    return code


@functools.cache
def _target() -> Any:
    """Make LLVM ready, and tell it where the functions are that machine code calls; returns what
    makes it load for this processor.
    """
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    for name in _CALLED:
        address = ctypes.cast(library[name], ctypes.c_void_p).value
        assert address is not None
        binding.add_symbol(name, address)
    return binding.Target.from_default_triple()


def read(content: bytes) -> Program:
    """Return the program whose machine code `compiled` gave.

    Raises
    ------
    ValueError
        If it is something else, or has been cut short.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            codes = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"no compiled program: {error}") from None
    addresses = _placed(codes) if LOADS_ALONE else _placed_by_numba(codes)
    functions = {name: Function(address) for name, address in addresses.items()}
    _OWNERS.append(functions)
    return Program(functions)


def _placed(codes: dict[str, bytes]) -> dict[str, int]:
    """Have LLVM place machine code in memory; returns the functions' addresses."""
    from llvmlite import binding

    machine = _target().create_target_machine(jit=True)  # the engine's own
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    for code in codes.values():
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _OWNERS.append(engine)
    symbols = dict(name.split("/", 1) for name in codes if name != _STUBS)
    return {name: engine.get_function_address(symbol) for name, symbol in symbols.items()}


def _placed_by_numba(codes: dict[str, bytes]) -> dict[str, int]:
    """Do the same the way Numba does with its own cache, and on every system that it knows."""
    from llvmlite import binding
    from numba.core.registry import cpu_target
    from numba.core.runtime import rtsys

    context, found = cpu_target.target_context, {}
    rtsys.initialize(context)  # code refers to what it brings
    for path, code in codes.items():
        if path != _STUBS:
            name, symbol = path.split("/", 1)
            # What tells Numba which functions there are.
            stated = binding.parse_assembly(f'define void @"{symbol}"() {{ ret void }}')
            library = context.codegen().unserialize_library(
                (symbol, "object", (code, stated.as_bitcode()))
            )
            _OWNERS.append(library)
            found[name] = library.get_pointer_to_function(symbol)
    return found
