"""`profile_layers`: what each layer of a model takes and keeps, found by running it.

Invariant: every rank gets the same numbers, so that all decide alike; the model is left as it was, and of its layers' weights
only one layer's are there at a time.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.autograd import Context, Tensor, WeightWork, backward, run_weights
from mpitrain.autograd.saved import saved_bytes
from mpitrain.comm.communicator import Communicator
from mpitrain.kernels.table import TWINS, kernels_for
from mpitrain.nn import Model, Module
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
    inputs: np.ndarray,
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
    known: dict[Hashable, tuple[Seconds, int, tuple[Array, ...]]] = {}
    x: tuple[Array, ...] = (arrays.asarray(inputs, dtype if inputs.dtype.kind == "f" else None),)
    times, sizes = [], []
    for i in range(len(model.layers)):
        ends = i + 1 == len(model.layers)
        (stage,) = model.cut([(i, i + 1)])
        key = likeness(stage), tuple((part.shape, str(part.dtype)) for part in x), i == 0, ends
        if key not in known:
            stage.materialize(arrays, dtype)
            pass_ = _Pass(stage, x, arrays, model if ends else None, arrays.asarray(targets) if ends else None, first=i == 0)
            pass_.kernels = kernels_for(arrays, dtype)
            pass_.run()
            known[key] = min((pass_.run() for _ in range(repeats)), key=sum), pass_.saved, pass_.outputs
        seconds, saved, x = known[key]
        times.append(seconds)
        sizes.append((saved, sum(part.nbytes for part in x)))
    median = np.median(comm.allgather(np.array(times)), axis=0)
    comm.broadcast(median, 0)  # ranks on unlike processors may round it differently
    return [
        LayerProfile(forward=forward, input_grad=input_grad, weight_grad=weight_grad, saved=saved, output=output)
        for (forward, input_grad, weight_grad), (saved, output) in zip(median.tolist(), sizes, strict=True)
    ]


#: Of the forward pass, the input's gradient, and the weights'.
Seconds = tuple[float, float, float]


class _Pass:
    """One layer's forward and backward on `x`; with a `model`, its loss on `targets` too."""

    def __init__(
        self, layer: Module, x: tuple[Array, ...], arrays: Arrays, model: Model | None, targets: Array | None, *, first: bool
    ) -> None:
        self.layer, self.x, self.arrays, self.model, self.targets, self.first = layer, x, arrays, model, targets, first
        self.saved = 0
        self.kernels = TWINS
        self.outputs: tuple[Array, ...] = ()

    def run(self) -> Seconds:
        """What it took; sets `saved` and `outputs`."""
        context = Context(samples=tuple(range(len(self.x[0]))), kernels=self.kernels)
        self.arrays.synchronize()
        begin = time.perf_counter()
        inputs = [Tensor(part, context=context, needs_grad=not self.first and _is_real(part)) for part in self.x]
        y = self.layer(inputs[0] if len(inputs) == 1 else tuple(inputs))
        outputs = y if isinstance(y, tuple) else (y,)
        self.outputs = tuple(part.data for part in outputs)
        if self.model is not None:
            outputs = (self.model.loss(y, self.targets),)
        self.arrays.synchronize()
        middle = time.perf_counter()
        self.saved = saved_bytes(outputs, self.layer.parameters())
        again = time.perf_counter()
        real = [part for part in outputs if _is_real(part.data)]
        put_off: WeightWork = []
        backward(real, [self.arrays.xp.ones_like(part.data) for part in real], leaves=inputs, put_off=put_off)
        self.arrays.synchronize()
        between = time.perf_counter()
        run_weights(put_off)
        self.arrays.synchronize()
        return middle - begin, between - again, time.perf_counter() - between


def _is_real(x: Array) -> bool:
    return x.dtype.kind not in "iub"
