"""Arithmetic, products, shapes and sums, with NumPy's names and NumPy's broadcasting.

Invariant: the gradient that an op returns for an input has that input's shape: what broadcasting spread is summed again.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

from mpitrain.arrays import Array, empty_beside, namespace
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor, Weight


def add(x: Tensor, y: Tensor) -> Tensor:
    """The sum x + y."""
    return _Add()(x, y)


def subtract(x: Tensor, y: Tensor) -> Tensor:
    """The difference x - y."""
    return _Subtract()(x, y)


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """The product x * y, element by element."""
    return _Multiply()(x, y)


def divide(x: Tensor, y: Tensor) -> Tensor:
    """The quotient x / y, element by element."""
    return _Divide()(x, y)


def negative(x: Tensor) -> Tensor:
    """-x."""
    return _Negative()(x)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """The product over x's last and y's second-last dim, both at least 2-D; leading dims broadcast."""
    return _Matmul()(x, y)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The elements of x in row-major order under another shape; one size may be -1."""
    return _Reshape(tuple(shape))(x)


def transpose(x: Tensor, dims: Sequence[int]) -> Tensor:
    """A view of x with its dims in another order."""
    return _Transpose(tuple(dims))(x)


def sum(x: Tensor, dims: Sequence[int] | None = None, *, keepdims: bool = False) -> Tensor:
    """The sum over `dims`, all of them by default."""
    return _Sum(dims, keepdims, mean=False)(x)


def mean(x: Tensor, dims: Sequence[int] | None = None, *, keepdims: bool = False) -> Tensor:
    """The mean over `dims`, all of them by default."""
    return _Sum(dims, keepdims, mean=True)(x)


def exp(x: Tensor) -> Tensor:
    """The exponential function."""
    return _Exp()(x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm."""
    return _Log()(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return _Tanh()(x)


def getitem(x: Tensor, key: Any) -> Tensor:
    """x[key] for a key of integers, slices and integer or boolean arrays, as NumPy indexes."""
    return _GetItem(key)(x)


def concatenate(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The parts joined along `dim`.  `ValueError` if there are none, or their other dims differ."""
    if not parts:
        raise ValueError("nothing is given to concatenate; expected at least one tensor")
    return _Concatenate(dim)(*parts)


def value(weight: Weight, like: Tensor) -> Tensor:
    """A weight as a tensor, in the context of `like`, so that the ops of this file can compute with it."""
    return _Value()(like, weights=(weight,))


def _summed(grad: Array, shape: tuple[int, ...]) -> Array:
    """`grad` with the dims that broadcasting added or stretched from `shape` summed away."""
    if grad.shape == shape:
        return grad
    added = grad.ndim - len(shape)
    stretched = [i + added for i, n in enumerate(shape) if n == 1 and grad.shape[i + added] != 1]
    return grad.sum(axis=(*range(added), *stretched), keepdims=True).reshape(shape)


class _Pair(Op):
    """Two inputs that broadcast against each other; `grads` gives their gradients before the sums."""

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        parts = zip(self.grads(dy), self.shapes, self.dtypes, self.wanted, strict=True)
        return tuple(_summed(part, shape).astype(dtype, copy=False) if wanted else None for part, shape, dtype, wanted in parts)

    def forward(self, x: Array, y: Array) -> Array:
        x, y = checks.promoted(x, y)
        self.shapes, self.dtypes = (x.shape, y.shape), (x.dtype, y.dtype)
        return self.apply(x, y)

    def apply(self, x: Array, y: Array) -> Array:
        raise NotImplementedError

    def grads(self, dy: Array) -> tuple[Array, Array]:
        raise NotImplementedError


class _Add(_Pair):
    def apply(self, x: Array, y: Array) -> Array:
        if x.shape != y.shape or x.dtype != y.dtype:
            return x + y
        return namespace(x).add(x, y, out=empty_beside(x))

    def grads(self, dy: Array) -> tuple[Array, Array]:
        return dy, dy


class _Subtract(_Pair):
    def apply(self, x: Array, y: Array) -> Array:
        return x - y

    def grads(self, dy: Array) -> tuple[Array, Array]:
        return dy, -dy


class _Multiply(_Pair):
    def apply(self, x: Array, y: Array) -> Array:
        self.x, self.y = x, y
        return x * y

    def grads(self, dy: Array) -> tuple[Array, Array]:
        return dy * self.y, dy * self.x


class _Divide(_Pair):
    def apply(self, x: Array, y: Array) -> Array:
        self.x, self.y = (checks.real(part, self.context.dtype) for part in (x, y))
        return self.x / self.y

    def grads(self, dy: Array) -> tuple[Array, Array]:
        dx = dy / self.y
        return dx, -dx * (self.x / self.y)


class _Matmul(Op):
    def forward(self, x: Array, y: Array) -> Array:
        if min(x.ndim, y.ndim) < 2 or x.shape[-1] != y.shape[-2]:
            raise ValueError(
                f"matmul is given shapes {tuple(x.shape)} and {tuple(y.shape)}; expected (..., n, k) and (..., k, m), at least "
                "2-D: reshape a vector to a matrix of one row or column"
            )
        self.x, self.y = x, y = checks.promoted(x, y)
        if checks.is_real(x.dtype) and x.dtype != y.dtype:
            raise ValueError(f"matmul is given {x.dtype} and {y.dtype}; expected one type: cast one of them")
        return namespace(x).matmul(x, y)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        xp, x, y = namespace(dy), self.x, self.y
        return (
            _summed(xp.matmul(dy, y.swapaxes(-1, -2)), x.shape) if self.wanted[0] else None,
            _summed(xp.matmul(x.swapaxes(-1, -2), dy), y.shape) if self.wanted[1] else None,
        )


class _Negative(Op):
    def forward(self, x: Array) -> Array:
        return -x

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (-dy,)


class _Reshape(Op):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        self.before = x.shape
        return x.reshape(self.shape)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy.reshape(self.before),)


class _Transpose(Op):
    def __init__(self, dims: tuple[int, ...]) -> None:
        self.dims = dims

    def forward(self, x: Array) -> Array:
        return x.transpose(self.dims)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        back = sorted(range(len(self.dims)), key=lambda i: self.dims[i] % len(self.dims))
        return (dy.transpose(back),)


class _Sum(Op):
    def __init__(self, dims: Sequence[int] | None, keepdims: bool, *, mean: bool) -> None:
        self.dims = None if dims is None else tuple(dims)
        self.keepdims = keepdims
        self.mean = mean

    def forward(self, x: Array) -> Array:
        x = checks.real(x, self.context.dtype) if self.mean else x
        self.before = x.shape
        dims = range(x.ndim) if self.dims is None else [d % x.ndim for d in self.dims]
        self.kept = tuple(1 if i in dims else n for i, n in enumerate(x.shape))
        self.scale = math.prod(self.kept) / (x.size or math.nan) if self.mean else 1.0
        y = namespace(x).asarray(x.sum(axis=self.dims, keepdims=self.keepdims))
        return y * self.scale if self.mean else y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        if self.mean:
            dy = dy * self.scale
        return (namespace(dy).broadcast_to(dy.reshape(self.kept), self.before),)


class _Exp(Op):
    def forward(self, x: Array) -> Array:
        self.y = namespace(x).exp(checks.real(x, self.context.dtype))
        return self.y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy * self.y,)


class _Log(Op):
    def forward(self, x: Array) -> Array:
        self.x = checks.real(x, self.context.dtype)
        return namespace(x).log(self.x)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy / self.x,)


class _Tanh(Op):
    def forward(self, x: Array) -> Array:
        self.y = namespace(x).tanh(checks.real(x, self.context.dtype))
        return self.y

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy * (1.0 - self.y * self.y),)


class _GetItem(Op):
    def __init__(self, key: Any) -> None:
        self.key = key

    def forward(self, x: Array) -> Array:
        self.before = x.shape
        return x[self.key]

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        xp = namespace(dy)
        dx = xp.zeros(self.before, dy.dtype)
        keys = self.key if isinstance(self.key, tuple) else (self.key,)
        if all(isinstance(k, (int, slice, type(None), type(...))) for k in keys):
            dx[self.key] = dy
        else:
            xp.add.at(dx, self.key, dy)  # an index array may name an element twice
        return (dx,)


class _Concatenate(Op):
    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, *parts: Array) -> Array:
        self.sizes, self.dtypes = [part.shape[self.dim] for part in parts], [part.dtype for part in parts]
        return namespace(parts[0]).concatenate(parts, axis=self.dim)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        ends = [builtins.sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        parts = namespace(dy).split(dy, ends, axis=self.dim)
        return tuple(part.astype(dtype, copy=False) for part, dtype in zip(parts, self.dtypes, strict=True))


class _Value(Op):
    def forward(self, like: Array, weight: Array) -> Array:
        return weight

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (None,)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        out[0][...] = dy
