"""`profile_layers`: what each layer of a model takes and keeps, found by running it.

Invariant: every rank gets the same numbers, so that all decide alike; the model is left as it was, and of its layers' weights
only one layer's are there at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.autograd import Context, Tensor, WeightWork, backward, run_weights
from mpitrain.autograd.saved import saved_bytes
from mpitrain.comm.communicator import Communicator
from mpitrain.data import Inputs, parts_of
from mpitrain.kernels.table import kernels_for
from mpitrain.nn import Model, Module, handed_on, tensors_of
from mpitrain.nn.likeness import likeness


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerProfile:
    """One layer with one microbatch."""

    #: Seconds of the forward pass, the loss with the last layer ...
    forward: float
    #: ... of the gradient of its input ...
    input_grad: float
    #: ... and of those of its weights.
    weight_grad: float
    #: Bytes kept between forward and backward.
    saved: int
    #: Bytes that it hands on.
    output: int = 0

    @property
    def seconds(self) -> float:
        """Forward and backward together."""
        return self.forward + self.input_grad + self.weight_grad


def profile_layers(
    comm: Communicator,
    model: Model,
    inputs: Inputs,
    targets: np.ndarray,
    arrays: Arrays,
    dtype: np.dtype,
    *,
    repeats: int = 3,
) -> list[LayerProfile]:
    """Run each layer forward and backward on a microbatch, once to warm up and then `repeats` times.

    The fastest time of a rank counts, and of the ranks' the median; layers that are alike are run once.  All ranks run at the
    same time, as in training.  Collective.
    """
    known: dict[Hashable, _Found] = {}
    parts = parts_of(inputs)
    context = Context(samples=tuple(range(len(parts[0]))), kernels=kernels_for(arrays, dtype), dtype=dtype)
    x: tuple[Array, ...] = tuple(arrays.asarray(part, dtype if part.dtype.kind == "f" else None) for part in parts)
    times, sizes, lowest = [], [], model.lowest
    for i in range(len(model.layers)):
        ends = i + 1 == len(model.layers)
        (stage,) = model.cut([(i, i + 1)])
        key = likeness(stage.layers[0]), tuple((part.shape, str(part.dtype)) for part in x), i <= lowest, ends
        if key not in known:
            stage.materialize(arrays, dtype)
            loss = partial(_loss, model, arrays.asarray(targets)) if ends else None
            run = partial(_run, stage, x, loss, arrays, context, wants=i > lowest)
            run()
            known[key] = min((run() for _ in range(repeats)), key=lambda found: sum(found[0]))
        seconds, saved, x = known[key]
        times.append(seconds)
        sizes.append((saved, sum(part.nbytes for part in x)))
    median = np.median(comm.allgather(np.array(times)), axis=0)
    comm.broadcast(median, 0)  # ranks on unlike processors may round it differently
    return [
        LayerProfile(forward=forward, input_grad=input_grad, weight_grad=weight_grad, saved=saved, output=output)
        for (forward, input_grad, weight_grad), (saved, output) in zip(median.tolist(), sizes, strict=True)
    ]


#: Seconds of the forward pass, the input's gradient and the weights'; bytes kept for them; what the layer gave.
_Found = tuple[tuple[float, float, float], int, tuple[Array, ...]]


def _run(
    layer: Module,
    x: tuple[Array, ...],
    loss: Callable[[Tensor], Tensor] | None,
    arrays: Arrays,
    context: Context,
    *,
    wants: bool,
) -> _Found:
    """A layer's forward and backward on `x`, whose gradient it `wants`, with the `loss` of what it gives if there is one."""
    arrays.synchronize()
    begin = time.perf_counter()
    inputs = [Tensor(part, context=context, needs_grad=wants and _is_real(part)) for part in x]
    given = tensors_of(handed_on(layer, inputs[0] if len(inputs) == 1 else tuple(inputs)))
    outputs = given if loss is None else (loss(*given),)
    arrays.synchronize()
    middle = time.perf_counter()
    saved = saved_bytes(outputs, layer.parameters())
    again = time.perf_counter()
    real = [part for part in outputs if _is_real(part.data)]
    put_off: WeightWork = []
    backward(real, [arrays.xp.ones_like(part.data) for part in real], leaves=inputs, put_off=put_off)
    arrays.synchronize()
    between = time.perf_counter()
    run_weights(put_off)
    arrays.synchronize()
    return (middle - begin, between - again, time.perf_counter() - between), saved, tuple(part.data for part in given)


def _loss(model: Model, targets: Array, y: Tensor) -> Tensor:
    return model.loss(y, targets)


def _is_real(x: Array) -> bool:
    return x.dtype.kind not in "iub"
