"""Buckets: the gradients of a stage, in the order in which backward completes them, in a few flat arrays.

Invariant: every gradient is a view into exactly one bucket, kept for the whole run, so a bucket is one message and nothing is
ever packed; a bucket holds what becomes ready together, and buckets become ready in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpitrain.arrays import Array, Arrays
from mpitrain.nn import Parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Some parameters whose gradients lie end to end in `flat`; `index` numbers the buckets of a rank."""

    index: int
    parameters: tuple[Parameter, ...]
    flat: Array

    def settle(self) -> None:
        """Zero the gradients that no op contributed to in this step."""
        for parameter in self.parameters:
            parameter.settled_grad()


def fill_buckets(parameters: Sequence[Parameter], bucket_bytes: int, arrays: Arrays, first_index: int = 0) -> list[Bucket]:
    """Cut `parameters`, in their order, into buckets of at least `bucket_bytes` (the last may be smaller).

    The gradients become views into them; what they hold is kept.
    """
    groups: list[list[Parameter]] = [[]]
    for parameter in parameters:
        if sum(p.data.nbytes for p in groups[-1]) >= bucket_bytes:
            groups.append([])
        groups[-1].append(parameter)
    return [_bucket(first_index + i, group, arrays) for i, group in enumerate(groups) if group]


def _bucket(index: int, parameters: Sequence[Parameter], arrays: Arrays) -> Bucket:
    flat = arrays.zeros((sum(p.data.size for p in parameters),), parameters[0].data.dtype)
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
    """What a step's backward pass showed: the parameters in the order of their last contribution, and how many each had."""

    order: tuple[Parameter, ...]
    contributions: Mapping[Parameter, int]


def readiness(parameters: Sequence[Parameter], seen: Sequence[Parameter]) -> Readiness:
    """From `seen`, each parameter once for each contribution; those that had none come last, in their own order."""
    last = {parameter: i for i, parameter in enumerate(seen)}
    order = sorted(parameters, key=lambda p: last.get(p, len(seen)))
    return Readiness(order=tuple(order), contributions={p: seen.count(p) for p in parameters})
