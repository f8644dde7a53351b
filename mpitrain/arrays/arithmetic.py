"""`arithmetic`: the libraries and instruction sets that decide how a rank rounds.

Invariant: two ranks with the same description compute the same bits from the same arrays in the same program.  Each library
chooses its code by the CPU: OpenBLAS a kernel, Numba a target, NumPy the features that it uses.  So two kinds of CPU in one job
differ in the last bits; OPENBLAS_CORETYPE, NUMBA_CPU_NAME and NPY_DISABLE_CPU_FEATURES make one CPU compute as another.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from threadpoolctl import threadpool_info

from mpitrain.arrays.backend import Arrays


def arithmetic(arrays: Arrays) -> dict[str, str]:
    """What computes on `arrays`, by role: BLAS, compiled loops and NumPy on the host; GPU and CuPy on a device."""
    if not arrays.on_host:
        return _device(arrays)
    return {"BLAS": _blas(), "compiled loops": _compiled_loops(), "NumPy": _numpy()}


def _blas() -> str:
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # Wheels bring their own: SciPy's is loaded too where something imported it, and computes nothing here.
    libraries = [library for library in libraries if "numpy.libs" in library["filepath"]] or libraries
    found = {" ".join(filter(None, map(library.get, ("internal_api", "version", "architecture")))) for library in libraries}
    return ", ".join(sorted(found)) or "unknown"


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
