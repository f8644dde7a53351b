"""`arithmetic`: the libraries and instruction sets that decide how a rank rounds.

Invariant: two ranks with the same description compute the same bits from the same arrays in the same program.  Each library
chooses its code by the CPU: OpenBLAS a kernel, Numba a target, NumPy the features that it uses.  So two kinds of CPU in one job
differ in the last bits; OPENBLAS_CORETYPE, NUMBA_CPU_NAME and NPY_DISABLE_CPU_FEATURES make one CPU compute as another.  The
number of its threads decides how BLAS rounds a large product, see `one_blas_thread`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from mpitrain.arrays.backend import Arrays


def arithmetic(arrays: Arrays) -> dict[str, str]:
    """What computes on `arrays`, by role: BLAS, compiled loops and NumPy on the host; GPU and CuPy on a device."""
    if not arrays.on_host:
        return _device(arrays)
    return {"BLAS": _blas(), "compiled loops": _compiled_loops(), "NumPy": _numpy()}


def one_blas_thread() -> None:
    """Let this process's BLAS compute with one thread from now on, so that a rank's number of cores does not decide its bits.

    Call it in the main thread: the first thread that sets the number keeps that right.
    """
    threadpool_limits(limits=1, user_api="blas")


def _blas() -> str:
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # Wheels bring their own: SciPy's is loaded too where something imported it, and computes nothing here.
    libraries = [library for library in libraries if "numpy.libs" in library["filepath"]] or libraries
    return ", ".join(sorted(map(_named, libraries))) or "unknown"


def _named(library: Mapping[str, Any]) -> str:
    threads = library["num_threads"]
    words = [
        library["internal_api"],
        library["version"],
        library.get("architecture"),
        f"with {threads} thread{'s' * (threads > 1)}",
    ]
    return " ".join(filter(None, words))


def _compiled_loops() -> str:
    if importlib.util.find_spec("numba") is None:
        return "none (Numba is not installed)"
    import numba
    from numba.core.registry import cpu_target

    _, cpu, _ = cpu_target.target_context.codegen().magic_tuple()
    return f"numba {numba.__version__} {cpu}"


def _numpy() -> str:
    from numpy._core._multiarray_umath import __cpu_baseline__, __cpu_dispatch__, __cpu_features__

    features = [*__cpu_baseline__, *(name for name in __cpu_dispatch__ if __cpu_features__[name])]
    return f"{np.__version__} {' '.join(features)}"


def _device(arrays: Arrays) -> dict[str, str]:
    properties = arrays.xp.cuda.runtime.getDeviceProperties(arrays.device)
    runtime = arrays.xp.cuda.runtime.runtimeGetVersion()
    gpu = f"{properties['name'].decode()}, compute capability {properties['major']}.{properties['minor']}"
    return {"GPU": gpu, "CuPy": f"{arrays.xp.__version__}, CUDA {runtime}"}
