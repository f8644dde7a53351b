"""The end of a step: the actions TALLY and STEP.

Invariant: loss, count and gradient norm are sums over all ranks in float64, divided once, so every rank knows the same mean and
clips by the same factor; each parameter's gradient enters the norm once, however many ranks hold it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import namespace
from mpitrain.comm.communicator import Communicator
from mpitrain.nn import NotFiniteError, Parameter, Statistic
from mpitrain.optim import OptimizerState
from mpitrain.program.action import Action
from mpitrain.program.compute import Compute


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What a step or an evaluation came to, the same on every rank."""

    #: Mean loss over the counted targets.
    loss: float
    #: Counted targets.
    count: float
    #: Norm of the gradient of the mean loss, before clipping.  0 in an evaluation.
    grad_norm: float = 0.0


class Update:
    """TALLY and STEP for the stages of a rank."""

    def __init__(
        self,
        comm: Communicator,
        compute: Compute,
        states: Mapping[int, OptimizerState],
        counted: Mapping[Parameter, int],
        clip: float | None,
    ) -> None:
        """`states` by stage; `counted` gives each parameter that this rank counts and how many ranks count it with it."""
        self.comm, self.compute, self.states, self.counted, self.clip = comm, compute, states, counted, clip
        self.metrics = Metrics(loss=math.nan, count=0)
        self.grad_scale = 1.0

    def tally(self, action: Action) -> None:
        """TALLY: add up over all ranks.  `NotFiniteError` on every rank if the loss or a gradient is not finite."""
        training = self.compute.context.record
        squares = sum(_square(p) / times for p, times in self.counted.items()) if training else 0.0
        sums = np.array([self.compute.loss_sum(), self.compute.count, squares])
        self.comm.allreduce(sums)
        loss_sum, count, squares = sums.tolist()
        loss = loss_sum / count if count else math.nan
        # Gradients were seeded with the weight of a sample; what is wanted is that of the mean over the counted targets.
        scale = 1.0 / (count * self.compute.context.sample_weight) if count else math.nan
        self.metrics = Metrics(loss=loss, count=count, grad_norm=scale * math.sqrt(squares) if squares >= 0 else math.nan)
        if training and not (math.isfinite(loss) and math.isfinite(self.metrics.grad_norm)):
            raise NotFiniteError(f"loss {loss}, gradient norm {self.metrics.grad_norm}")
        clipped = self.clip is not None and self.metrics.grad_norm > self.clip
        self.grad_scale = scale * self.clip / self.metrics.grad_norm if clipped and self.clip else scale

    def step(self, action: Action) -> None:
        """STEP: update the stage's weights with the mean gradient, clipped."""
        self.states[action.stage].step(grad_scale=self.grad_scale, rows=1 / self.compute.context.sample_weight)


def _square(parameter: Parameter) -> float:
    """The sum of the squares of the parameter's accumulated gradient."""
    if isinstance(parameter, Statistic):
        return 0.0
    grad = parameter.settled_grad().ravel()
    return float(namespace(grad).dot(grad, grad))
