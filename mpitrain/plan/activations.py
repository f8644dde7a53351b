"""How many bytes a layer keeps between forward and backward, found by running it once on one sample.

Invariant: a plan needs no more memory than one layer with one sample.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from mpitrain.arrays import Arrays
from mpitrain.autograd import Context, Tensor
from mpitrain.autograd.saved import saved_bytes as saved_by
from mpitrain.data import Inputs, parts_of
from mpitrain.nn import Model, handed_on, tensors_of
from mpitrain.nn.init import ZEROS
from mpitrain.nn.likeness import likeness


def saved_bytes(model: Model, sample: Inputs) -> list[int]:
    """For each layer of `model`, the bytes of float32 kept for one sample; `sample` is a model input with a sample dim of 1.

    Runs on the host, one layer after the other, each with weights of zero that are dropped again; those that are alike run
    once.
    """
    known: dict[Hashable, tuple[int, tuple[np.ndarray, ...]]] = {}
    found = []
    x = tuple(part.astype(np.float32) if part.dtype.kind == "f" else part for part in parts_of(sample))
    lowest = model.lowest
    for number, (layer,) in enumerate(stage.layers for stage in model.cut([(i, i + 1) for i in range(len(model.layers))])):
        signature = likeness(layer), number > lowest, tuple((part.shape, str(part.dtype)) for part in x)
        if signature not in known:
            for p in layer.parameters():
                p.init = ZEROS
            layer.materialize(Arrays(), np.dtype(np.float32))
            context = Context(samples=(0,))
            inputs = [Tensor(part, context=context, needs_grad=number > lowest and part.dtype.kind == "f") for part in x]
            parts = tensors_of(handed_on(layer, inputs[0] if len(inputs) == 1 else tuple(inputs)))
            known[signature] = saved_by(parts, layer.parameters()), tuple(np.zeros_like(part.data) for part in parts)
        size, x = known[signature]
        found.append(size)
    return found
