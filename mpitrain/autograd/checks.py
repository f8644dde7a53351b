"""What an op asks of its inputs before any kernel sees them: their types, their shapes, and labels that are in range.

Invariant: every kind of kernel is given only what passed here, so all of them accept and refuse the same.  A check reads shapes
and dtypes, and the labels themselves only in host memory, so that none waits for a device: there the kernel makes NaN of a
label that is out of range, and the pass that looks for the culprit (`Context.check`) reads it.
"""

from __future__ import annotations

import numpy as np

from mpitrain.arrays import FLOATS, Array, to_host

_REAL = frozenset(FLOATS.values())


def is_real(dtype: np.dtype) -> bool:
    """Whether numbers of this type are real, and so have gradients, and are not integers or booleans."""
    return dtype.kind not in "iub"


def array(x: Array) -> None:
    """`ValueError` if `x` is not an array of a type that ops compute with."""
    dtype = getattr(x, "dtype", None)
    if dtype not in _REAL and getattr(dtype, "kind", "") not in "iub":
        raise ValueError(
            f"a tensor is given {type(x).__name__ if dtype is None else f'an array of {dtype}'}; "
            f"expected an array of integers, booleans or one of {', '.join(FLOATS)}"
        )


def real(x: Array, dtype: np.dtype) -> Array:
    """`x`, integers as real numbers of `dtype`."""
    return x if is_real(x.dtype) else x.astype(dtype)


def like_weight(what: str, x: Array, weight: Array) -> Array:
    """`x`, integers in the type of `weight`.  `ValueError` if it has another real type, which kernels do not mix."""
    if x.dtype == weight.dtype:
        return x
    if is_real(x.dtype):
        raise ValueError(f"{what} is given {x.dtype} and has weights of {weight.dtype}; expected one type: cast one of them")
    return x.astype(weight.dtype)


def promoted(x: Array, y: Array) -> tuple[Array, Array]:
    """Both, integers in the type of real numbers that they meet: NumPy would make float64 of int64 and float32."""
    if is_real(x.dtype) == is_real(y.dtype):
        return x, y
    return (x, y.astype(x.dtype)) if is_real(x.dtype) else (x.astype(y.dtype), y)


def last_dim(what: str, x: Array, size: int) -> None:
    """`ValueError` if the last dim of `x` has not this size."""
    if not x.ndim or x.shape[-1] != size:
        raise ValueError(
            f"{what} of {size} inputs is given {x.shape[-1] if x.ndim else 'a number'} (shape {tuple(x.shape)}); expected as "
            "many as there are: change the layer's size, or the data's"
        )


def vectors(what: str, size: int, *weights: Array) -> None:
    """`ValueError` if one of the weights is not a vector of this size."""
    for weight in weights:
        if weight.shape != (size,):
            raise ValueError(f"{what} has a weight of shape {tuple(weight.shape)}; expected ({size},)")


def images(what: str, x: Array, channels: int | None = None) -> None:
    """`ValueError` if `x` is not images (n, c, h, w) of so many channels, at least one."""
    if x.ndim != 4 or not x.shape[1] or channels not in (None, x.shape[1]):
        raise ValueError(
            f"{what}{'' if channels is None else f' of {channels} channels'} is given images of shape {tuple(x.shape)}; "
            f"expected (n, {'c' if channels is None else channels}, h, w): change the layer's channels, or the data's shape"
        )


def normed_images(x: Array, weight: Array, *others: Array) -> Array:
    """Images in the type of the `weight` of a batch norm, which has one number for each channel, as `others` have."""
    what = "a batch norm"
    images(what, x, weight.size)
    vectors(what, weight.size, weight, *others)
    return like_weight(what, x, weight)


def labels(what: str, x: Array, count: int, *, ignored: int | None = None, wait: bool = False) -> None:
    """`ValueError` if `x` is not integers in 0 .. count, `ignored` aside; `wait` for a device to tell, too."""
    if x.dtype.kind not in "iu":
        raise ValueError(f"the {what}s are {x.dtype}; expected integers: convert them, if they are meant as such")
    if not isinstance(x, np.ndarray) and not wait:
        return
    x = to_host(x)
    if not x.size or (x.min() >= 0 and x.max() < count):
        return
    wrong = (x < 0) | (x >= count)
    if ignored is not None:
        wrong &= x != ignored
    if wrong.any():
        where = np.argwhere(wrong)[0]
        but = "" if ignored is None else f", or {ignored} for one that does not count"
        raise ValueError(f"{what} {x[tuple(where)]} at {where.tolist()} is not one of {count}; expected 0 to {count - 1}{but}")
