"""`Kernels`: which implementation of each kernel a rank computes with, where there is more than the twin.

Invariant: every entry does what its twin does, up to rounding; a kernel that is not here has its twin alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.kernels.activation import gelu_tanh
from mpitrain.kernels.adam import adam
from mpitrain.kernels.attention import TWIN, Parts
from mpitrain.kernels.cross_entropy import cross_entropy
from mpitrain.kernels.embedding import embedding_grad
from mpitrain.kernels.norm import layer_norm, layer_norm_grad, scale_shift_grad
from mpitrain.kernels.sgd import sgd


class Activation(Protocol):
    """An element-wise function and, if asked, its slope."""

    def __call__(self, x: Array, *, slope: bool = ...) -> tuple[Array, Array | None]:
        """See `mpitrain.kernels.activation.twin`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """The twins, unless others are given."""

    layer_norm: Callable[[Array, Array, Array, float], tuple[Array, Array, Array]] = layer_norm
    layer_norm_grad: Callable[[Array, Array, Array, Array], Array] = layer_norm_grad
    scale_shift_grad: Callable[[Array, Array, Array, Array], None] = scale_shift_grad
    gelu_tanh: Activation = gelu_tanh
    attention: Parts = TWIN
    cross_entropy: Callable[..., tuple[Array, Array | None]] = cross_entropy
    embedding_grad: Callable[[Array, Array, Array], None] = embedding_grad
    adam: Callable[..., None] = adam
    sgd: Callable[..., None] = sgd
    #: The only type that they compute with; `None` for any.
    dtype: np.dtype | None = None

    def taking(self, dtype: np.dtype) -> Kernels:
        """These, or the twins for a type that they do not compute with."""
        return self if self.dtype is None or self.dtype == dtype else TWINS


TWINS = Kernels()


def kernels_for(arrays: Arrays, dtype: np.dtype) -> Kernels:
    """The quickest kernels for a model in `dtype` on `arrays`: compiled ones for float32 on the host, where Numba is installed.

    Numba compiles them on a machine's first run (some seconds) and reads what it compiled on the next.
    """
    if not arrays.on_host or dtype != np.float32 or importlib.util.find_spec("numba") is None:
        return TWINS
    from mpitrain.kernels.fused import FUSED  # which imports Numba

    return FUSED
