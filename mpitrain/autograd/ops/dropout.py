"""Dropout whose mask is a function of (seed, layer, call, global sample number, element), so that no layout changes it."""

from __future__ import annotations

import math

import numpy as np

from mpitrain.arrays import Array, Stream, namespace
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor
from mpitrain.bounds import Rate, checked


@checked
def dropout(x: Tensor, rate: Rate, *, name: str) -> Tensor:
    """Zero each element of x with probability `rate` and scale the others by 1 / (1 - rate) (Srivastava et al. 2014).

    Element j (row-major) of sample s is drawn from word s * (elements a sample) + j of the stream that `context.seed`, the name
    and the number of the call (`context.calls`) key, where s comes from `context.samples`.  Outside training, at rate 0,
    and where there are no samples, x itself.
    """
    if not x.context.train or rate == 0.0 or not x.data.size:
        return x
    return _Dropout(rate, name)(x)


class _Dropout(Op):
    def __init__(self, rate: float, name: str) -> None:
        self.rate, self.name = rate, name

    def forward(self, x: Array) -> Array:
        x = checks.real(x, self.context.dtype)
        xp, samples = namespace(x), self.context.samples
        if x.shape[:1] != (len(samples),):
            raise ValueError(
                f"dropout {self.name!r} sees {x.shape[0] if x.ndim else 'no'} rows and context.samples has {len(samples)} "
                "numbers; expected one a row: "
                "pass Tensor(x, context=Context(samples=...)), the rows' numbers in the order of all training samples"
            )
        stream = Stream(self.context.seed, self.context.calls.key(f"{self.name}/dropout"))
        count = math.prod(x.shape[1:])
        kept = np.stack([stream.uniform(s * count, count) >= self.rate for s in samples]).reshape(x.shape)
        self.scale = xp.asarray(kept, x.dtype)
        self.scale *= 1.0 / (1.0 - self.rate)
        return x * self.scale

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy * self.scale,)
