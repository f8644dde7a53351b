"""Which array library a rank computes with, as an object that is passed down; importing this file chooses nothing.

Invariant: code below the top floor asks either an `Arrays` object (to create arrays) or an array itself
(`namespace(x)`, to compute with it), and never imports CuPy by name.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

#: A NumPy or CuPy array. The two share an interface and no base class, hence `Any`.
Array = Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrays:
    """An array library bound to one device.

    `xp` is the module (`numpy` or `cupy`), `device` the ordinal of the GPU, `None` on the host.
    """

    xp: Any = np
    device: int | None = None

    @property
    def name(self) -> str:
        """`"numpy"` or `"cupy"`."""
        return str(self.xp.__name__)

    @property
    def on_host(self) -> bool:
        """Whether arrays live in host memory."""
        return self.device is None

    def activate(self) -> None:
        """Make this device the calling thread's current one (CuPy keeps one for each thread)."""
        if self.device is not None:
            self.xp.cuda.Device(self.device).use()

    def synchronize(self) -> None:
        """Wait until everything that was asked of the device is done."""
        if self.device is not None:
            self.xp.cuda.Device(self.device).synchronize()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array of `shape` whose contents are undefined."""
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array of `shape`, filled with zeros."""
        return self.xp.zeros(shape, dtype)

    def asarray(self, x: Array, dtype: DTypeLike | None = None) -> Array:
        """`x` in this library's memory, copied only if it has to be."""
        return self.xp.asarray(x, dtype)

    def memory_bytes(self) -> int:
        """Bytes that this process holds: the array pool's on a GPU, the peak resident set on the host."""
        if self.device is not None:
            return int(self.xp.get_default_memory_pool().total_bytes())
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def namespace(x: Array) -> Any:
    """The library (`numpy` or `cupy`) that the array `x` belongs to."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    return sys.modules[type(x).__module__.partition(".")[0]]


def to_host(x: Array) -> np.ndarray:
    """`x` as a NumPy array: itself on the host, a copy from a device."""
    return np.asarray(x if namespace(x) is np else x.get())


def choose(override: str | None = None, *, local_rank: int = 0, local_size: int = 1) -> Arrays:
    """The array library for the rank that is number `local_rank` of `local_size` on its host.

    `override` is `"numpy"`, `"cupy"` or `None` for CuPy where it finds a GPU.  A rank that sees one device takes it (the
    launcher binds); one that sees at least `local_size` takes number `local_rank`.  `ValueError` otherwise.
    """
    if override not in (None, "numpy", "cupy"):
        raise ValueError(f"the array library is {override!r}; expected 'numpy', 'cupy' or nothing (CuPy where it finds a GPU)")
    if override == "numpy":
        return Arrays()
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        if override == "cupy":
            raise ValueError(
                "the array library 'cupy' was asked for and cannot be imported "
                f"({error}); install the extra mpitrain[cuda12] or mpitrain[cuda13], or ask for 'numpy'"
            ) from error
        return Arrays()
    if not cupy.cuda.is_available():
        if override == "cupy":
            raise ValueError("the array library 'cupy' was asked for and sees no GPU; check `nvidia-smi`, or ask for 'numpy'")
        return Arrays()
    arrays = Arrays(xp=cupy, device=device_for(cupy.cuda.runtime.getDeviceCount(), local_rank, local_size))
    arrays.activate()
    return arrays


def device_for(visible: int, local_rank: int, local_size: int) -> int:
    """The ordinal of the device for a rank, given how many it sees.  `ValueError` if ranks would share by accident."""
    if visible == 1:
        return 0
    if visible >= local_size:
        return local_rank
    raise ValueError(
        f"{local_size} ranks run on this host and each sees {visible} GPUs; "
        f"expected 1 (the launcher binds) or at least {local_size}. "
        f"Start {visible} ranks a host, or let the launcher bind: `srun --gpus-per-task=1`, "
        "or CUDA_VISIBLE_DEVICES set for each rank"
    )
