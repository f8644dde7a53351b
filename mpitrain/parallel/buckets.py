"""Buckets: the gradients of a stage, in the order in which backward completes them, in a few flat arrays.

Invariant: every gradient is a view into exactly one bucket, kept for the whole run, so a bucket is one message and nothing is
ever packed; a bucket holds what becomes ready together, and buckets become ready in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.nn import Parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Some parameters whose gradients lie end to end in `flat`; `index` numbers the buckets of a rank.

    Without a `flat`, the gradients come and go, each in memory of its own.
    """

    index: int
    parameters: tuple[Parameter, ...]
    flat: Array | None

    def __str__(self) -> str:
        names = [p.name for p in self.parameters]
        shown = names if len(names) <= 4 else [names[0], names[1], f"… {len(names) - 3} more …", names[-1]]
        return f"bucket {self.index} ({', '.join(shown)})"

    def settle(self) -> None:
        """Zero the gradients that no op contributed to in this step."""
        for parameter in self.parameters:
            parameter.settled_grad()


def group_by_bytes(parameters: Sequence[Parameter], bucket_bytes: int, dtype: np.dtype) -> list[list[Parameter]]:
    """Cut `parameters`, in their order, into groups of at least `bucket_bytes` of `dtype`; the last may be smaller."""
    groups: list[list[Parameter]] = [[]]
    for parameter in parameters:
        if sum(p.size for p in groups[-1]) * dtype.itemsize >= bucket_bytes:
            groups.append([])
        groups[-1].append(parameter)
    return [group for group in groups if group]


def passing_bucket(index: int, parameters: Sequence[Parameter], arrays: Arrays) -> Bucket:
    """A bucket of gradients that come and go."""
    return Bucket(index=index, parameters=tuple(parameters), flat=None)


def flat_zeros(arrays: Arrays, count: int, dtype: np.dtype) -> Array:
    """A flat array of zeros."""
    return arrays.zeros((count,), dtype)


def kept_bucket(
    index: int,
    parameters: Sequence[Parameter],
    arrays: Arrays,
    zeros: Callable[[Arrays, int, np.dtype], Array] = flat_zeros,
) -> Bucket:
    """A bucket whose gradients are views into one array, kept for the whole run; what they hold is kept too.

    `zeros` makes the array.
    """
    flat = zeros(arrays, sum(p.data.size for p in parameters), parameters[0].data.dtype)
    start = 0
    for parameter in parameters:
        view = flat[start : start + parameter.data.size].reshape(parameter.data.shape)
        if parameter.grad is not None and not parameter.fresh:
            view[...] = parameter.grad
        parameter.grad = view
        start += parameter.data.size
    return Bucket(index=index, parameters=tuple(parameters), flat=flat)


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """What backward passes showed: the parameters in the order of their last contribution, and how many each had."""

    order: tuple[Parameter, ...]
    contributions: Mapping[Parameter, int]


def readiness(parameters: Sequence[Parameter], seen: Sequence[Parameter]) -> Readiness:
    """From `seen`, each parameter once for each contribution; those that had none come last, in their own order."""
    last = {parameter: i for i, parameter in enumerate(seen)}
    order = sorted(parameters, key=lambda p: last.get(p, len(seen)))
    return Readiness(order=tuple(order), contributions={p: seen.count(p) for p in parameters})
