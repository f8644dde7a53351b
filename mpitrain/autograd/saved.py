"""`saved_bytes`: the memory that a recorded graph keeps for its backward pass.

Invariant: every array that the graph can reach is counted once, by the memory that it lies in, and weights are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mpitrain.arrays import Array
from mpitrain.autograd.tensor import Node, Tensor, Weight


def saved_bytes(outputs: Iterable[Tensor], weights: Iterable[Weight]) -> int:
    """Bytes that the graph below `outputs` keeps, less those of `weights`."""
    own = {id(_root(weight.data)) for weight in weights}
    return sum({id(root): root.nbytes for root in map(_root, _reachable(outputs)) if id(root) not in own}.values())


def _reachable(outputs: Iterable[Tensor]) -> Iterator[Array]:
    """Every array in the graph below `outputs`."""
    seen: set[int] = set()
    stack: list[object] = list(outputs)
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if _is_array(thing):
            yield thing
        elif isinstance(thing, (Node, Tensor)):
            stack.append(thing.op)  # an output is kept for backward only if some op saved it
        elif isinstance(thing, (list, tuple)):
            stack.extend(thing)
        elif hasattr(thing, "input_grad"):
            stack.extend(vars(thing).values())


def _root(x: Array) -> Array:
    """The array that owns the memory of `x`."""
    while _is_array(x.base):
        x = x.base
    return x


def _is_array(thing: Any) -> bool:
    """Whether it is an array of either library."""
    return hasattr(thing, "nbytes") and hasattr(thing, "base")
