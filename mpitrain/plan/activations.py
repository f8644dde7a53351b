"""How many bytes a layer keeps between forward and backward, found by running it once on one sample.

Invariant: every array that the recorded graph can reach is counted once, by the memory that it occupies, and weights are not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpitrain.arrays import Arrays
from mpitrain.autograd import Context, Tensor
from mpitrain.autograd.tensor import Node
from mpitrain.nn import Model
from mpitrain.nn.init import ZEROS


def saved_bytes(model: Model, sample: np.ndarray) -> list[int]:
    """For each layer of `model`, the bytes of float32 kept for one sample; `sample` is a model input with a sample dim of 1.

    Runs on the host, one layer after the other, each with weights of zero that are dropped again; equal layers run once.
    """
    known: dict[object, tuple[int, np.ndarray]] = {}
    found = []
    x = sample
    for (layer,) in (stage.layers for stage in model.cut([(i, i + 1) for i in range(len(model.layers))])):
        own_names = [(p.name.split(".", 2)[2], p.shape) for p in layer.parameters()]  # less "layers.N."
        signature = (type(layer), x.shape, tuple(own_names))
        if signature not in known:
            for p in layer.parameters():
                p.init = ZEROS
            layer.materialize(Arrays(), np.dtype(np.float32))
            y = layer(Tensor(x, context=Context(samples=(0,)), needs_grad=x.dtype.kind == "f"))
            weights = {id(_root(p.data)) for p in layer.parameters()}
            kept = {id(root): root.nbytes for root in map(_root, _reachable(y)) if id(root) not in weights}
            known[signature] = sum(kept.values()), np.zeros_like(y.data)
        size, x = known[signature]
        found.append(size)
    return found


def _reachable(y: Tensor) -> Iterator[np.ndarray]:
    """Every array in the graph below `y`."""
    seen: set[int] = set()
    stack: list[object] = [y]
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            yield thing
        elif isinstance(thing, (Node, Tensor)):
            stack.append(thing.op)  # an output is kept for backward only if some op saved it
        elif isinstance(thing, (list, tuple)):
            stack.extend(thing)
        elif hasattr(thing, "input_grad"):
            stack.extend(vars(thing).values())


def _root(x: np.ndarray) -> np.ndarray:
    """The array that owns the memory of `x`."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x
