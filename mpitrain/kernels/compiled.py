"""`compiled`: a function of numbers and arrays as machine code, by Numba (the extra `mpitrain[fast]`).

Invariant: the bits of a result follow from the values and shapes of the arguments alone, wherever their arrays lie.  LLVM may
vectorise a sum, which changes its order; where it cannot tell whether two arrays overlap it compiles the loop twice, and the
addresses choose.  So it is told that no two arguments overlap, and scratch memory is an argument too.  Products may be fused
with sums.  Infinities and NaN stay what they are.

A function is compiled for the one signature that it states, when its file is imported, and kept in Numba's cache on disk, which
ranks that start together may fill together.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from mpitrain.arrays import Array

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
_FASTMATH = {"contract", "nsz"}


class _NoOverlap(CompilerBase):
    """Numba's own passes, with LLVM's `noalias` on every array argument."""

    def define_pipelines(self) -> list[Any]:
        self.state.flags.noalias = True
        passes: Any = DefaultPassBuilder.define_nopython_pipeline  # which has no types
        return [passes(self.state)]


def compiled(signature: str, *, sums: bool = False) -> Callable[[F], F]:
    """A decorator; `signature` is Numba's, for example `"void(float32[::1], float32)"`.  Arguments may not overlap.

    With `sums`, LLVM may reorder the sums over a row.  A function without such sums is not given that freedom: LLVM would
    reorder products too, which can overflow in one order alone.

    Where no cache can be written, a `UserWarning` says so, and each process compiles for itself.
    """
    fastmath = _FASTMATH | {"reassoc"} if sums else _FASTMATH

    def decorator(function: F) -> F:
        def machine_code(*, cache: bool) -> Any:
            made: Any = numba.njit(signature, cache=cache, pipeline_class=_NoOverlap, fastmath=fastmath, **_OPTIONS)
            return made(function)

        try:
            return machine_code(cache=True)
        except (RuntimeError, OSError) as error:  # no folder for it, or no room in it
            _warn_once(
                f"Numba cannot keep compiled kernels ({type(error).__name__}), so each process compiles them anew, which takes "
                "some seconds; set NUMBA_CACHE_DIR to a folder that can be written"
            )
            return machine_code(cache=False)

    return decorator


@functools.cache
def _warn_once(text: str) -> None:
    """Python's own filter forgets what it has shown, as Numba changes the filters."""
    warnings.warn(text, stacklevel=3)


def inlined(function: F) -> F:
    """A function that compiled ones call; it is compiled as a part of them."""
    made: Any = numba.njit(inline="always", fastmath=_FASTMATH, **_OPTIONS)(function)
    return made


def plain(x: Array) -> Array:
    """`x` as compiled functions take it: contiguous, aligned and writable; a copy where it is not."""
    return x if x.flags.carray else np.require(x, requirements=("C", "A", "W"))
