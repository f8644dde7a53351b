"""Compute on the stages of a rank: the actions F, B, I, W.

Invariant: what an action uses was put into `Mail` by a transfer or by the neighbouring stage on the same rank, and it cannot
tell which; a microbatch's graph lives from its F to its B or W and no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpitrain.arrays import Array, Arrays, to_host
from mpitrain.autograd import Calls, Context, Tensor, WeightWork, backward, run_weights
from mpitrain.kernels.table import kernels_for
from mpitrain.nn import Classification, Loss, Stage, tensors_of
from mpitrain.program.action import Action
from mpitrain.program.transfer import Mail, Slot


@dataclass(frozen=True, kw_only=True, slots=True)
class Microbatch:
    """A part of a batch.  `inputs`, in their parts, are there on the rank of the first stage, `targets` on that of the last
    (while training).
    """

    samples: tuple[int, ...]
    inputs: tuple[Array, ...] = ()
    targets: Array | None = None


class Compute:
    """Forward and backward of the stages that a rank owns."""

    def __init__(
        self,
        stages: Mapping[int, Stage],
        loss: Loss,
        last_stage: int,
        mail: Mail,
        arrays: Arrays,
        dtype: np.dtype,
        between: Callable[[], None] = lambda: None,
        *,
        lowest: int = 0,
    ) -> None:
        """`between` is called between layers forward and between ops backward, to move on what is under way.

        Stages below `lowest` have nothing to train, and no backward.
        """
        self.between, self.lowest = between, lowest
        self.stages, self.loss, self.last_stage, self.mail = stages, loss, last_stage, mail
        self.arrays, self.dtype = arrays, dtype
        self.context, self.kernels = Context(), kernels_for(arrays, dtype)
        self.microbatches: Sequence[Microbatch] = ()
        #: What holds for each.
        self.contexts: list[Context] = []
        self.live: dict[Slot, tuple[list[Tensor], list[Tensor]]] = {}
        self.put_off: dict[Slot, WeightWork] = {}
        self.losses: list[Array] = []
        self.count = self.correct = 0.0
        self.outputs: dict[int, Array] = {}

    def begin(self, microbatches: Sequence[Microbatch], context: Context) -> None:
        """Start a program over `microbatches` in `context`; forget what a program before it left."""
        self.microbatches, self.context = microbatches, replace(context, kernels=self.kernels, dtype=self.dtype)
        self.contexts = [replace(self.context, samples=microbatch.samples, calls=Calls()) for microbatch in microbatches]
        for left in (self.live, self.put_off, self.losses, self.outputs, self.mail.inputs, self.mail.grads):
            left.clear()
        self.count = self.correct = 0.0

    def forward(self, action: Action) -> None:
        """F: run the stage; on the last one, the loss too."""
        stage, i = slot = _slot(action)
        microbatch, context = self.microbatches[i], self.contexts[i]
        wants = context.record and stage > self.lowest
        arrived = self.mail.inputs.pop(slot) if stage else tuple(map(self._first_input, microbatch.inputs))
        inputs = [Tensor(x, context=context, needs_grad=wants and _is_real(x)) for x in arrived]
        y: Any = inputs[0] if len(inputs) == 1 else tuple(inputs)
        y = self.stages[stage].forward(y, self.between)
        if stage < self.last_stage:
            self.mail.inputs[stage + 1, i] = tuple(part.data for part in tensors_of(y))
        elif isinstance(y, tuple):
            raise ValueError(f"the model's last layer gives {len(y)} tensors; expected one, which the loss takes")
        elif microbatch.targets is None:
            self.outputs[i] = y.data
        else:
            targets = self.arrays.asarray(microbatch.targets)
            logits, y = y, self.loss(y, targets)
            if not context.record and isinstance(self.loss, Classification):
                self.correct += float(to_host(self.loss.correct(logits, targets)))
            self.losses.append(y.data)
            self.count += self.loss.count(microbatch.targets)
            if context.record:
                self.mail.grads[slot] = (self.arrays.asarray(np.array(context.sample_weight, y.data.dtype)),)
        if context.record and stage >= self.lowest:
            self.live[slot] = [x for x in inputs if _is_real(x.data)], [part for part in tensors_of(y) if _is_real(part.data)]

    def backward(self, action: Action) -> None:
        """B: both gradients at once, each op's weight gradient right after its input gradient."""
        self._backward(_slot(action), None)

    def input_grad(self, action: Action) -> None:
        """I: the gradient of the stage's input; the weights' is put off."""
        slot = _slot(action)
        self._backward(slot, self.put_off.setdefault(slot, []))

    def weight_grad(self, action: Action) -> None:
        """W: the weight gradients that I put off."""
        run_weights(self.put_off.pop(_slot(action)), self.between)

    def loss_values(self) -> list[float]:
        """The loss of each microbatch since `begin`."""
        return [float(to_host(loss)) for loss in self.losses]

    def _first_input(self, part: Array) -> Array:
        """A part of the model's input: real numbers in the model's type, whatever the files hold; tokens stay integers."""
        return self.arrays.asarray(part, self.dtype if part.dtype.kind == "f" else None)

    def _backward(self, slot: Slot, put_off: WeightWork | None) -> None:
        stage, i = slot
        inputs, outputs = self.live.pop(slot)
        grads = backward(outputs, self.mail.grads.pop(slot), leaves=inputs, put_off=put_off, between=self.between)
        if stage > self.lowest:
            zeros = self.arrays.xp.zeros_like
            self.mail.grads[stage - 1, i] = tuple(
                zeros(x.data) if dx is None else dx for x, dx in zip(inputs, grads, strict=True)
            )


def _is_real(x: Array) -> bool:
    """Whether `x` holds real numbers, which have gradients, and not integers."""
    return x.dtype.kind not in "iub"


def _slot(action: Action) -> Slot:
    assert action.microbatch is not None
    return action.stage, action.microbatch
