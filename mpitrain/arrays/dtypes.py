"""The floating-point types that arrays, files and wires carry, by their names in TOML and safetensors.

Invariant: a name and a dtype stand for each other one to one, bfloat16 (which NumPy has only through `ml_dtypes`) included.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

#: Every floating-point type, by name.
FLOATS: dict[str, np.dtype] = {
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


def float_dtype(name: str) -> np.dtype:
    """The dtype called `name`; `ValueError` names the ones that there are."""
    if name not in FLOATS:
        raise ValueError(f"dtype {name!r} is not a floating-point type; expected one of {', '.join(FLOATS)}")
    return FLOATS[name]


def sum_dtype(dtype: np.dtype) -> np.dtype:
    """The type in which values of `dtype` are summed: float32 for the 16-bit floats, otherwise itself, in this machine's order
    of bytes.
    """
    native = dtype.newbyteorder("=")
    return FLOATS["float32"] if native in (FLOATS["float16"], BFLOAT16) else native
