"""The end of a step: the actions TALLY and STEP.

Invariant: loss, count and gradient norm are sums over all ranks in float64 or better, divided once, so every rank knows the
same mean and clips by the same factor; each parameter's gradient enters the norm once, however many ranks hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import Array, to_host
from mpitrain.comm.communicator import Communicator
from mpitrain.nn import Classification, NotFiniteError, Parameter
from mpitrain.optim import OptimizerState, clip_scale, clip_values, squared_norms
from mpitrain.program.action import Action
from mpitrain.program.compute import Compute
from mpitrain.program.reached import Reached


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What a step or an evaluation came to, the same on every rank."""

    #: Mean loss over the counted targets.
    loss: float
    #: Counted targets.
    count: float
    #: Norm of the gradient of the mean loss, before clipping.  0 in an evaluation.
    grad_norm: float = 0.0
    #: Learning rate of the step, before any group's scale.  0 in an evaluation.
    learning_rate: float = 0.0
    #: Part of the counted targets whose class was right, in an evaluation with a loss of classes.
    accuracy: float | None = None
    #: Whether nothing was counted, so that weights and optimizer state were left alone; the schedule goes on, and running
    #: statistics take the batch in, as in any forward pass.
    skipped: bool = False

    @staticmethod
    def mean(found: Sequence[Metrics]) -> Metrics:
        """Of several evaluations as of one: each weighs as much as it counted."""
        count = sum(m.count for m in found)
        loss = sum(m.loss * m.count for m in found if m.count) / count if count else math.nan
        right = [m.accuracy * m.count for m in found if m.accuracy is not None]
        return Metrics(loss=loss, count=count, accuracy=sum(right) / count if right and count else None)


#: Numbers that are added up.
Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """How numbers are added up over all ranks."""

    #: The sum of each of some lists of numbers over all ranks of a communicator; the lists may differ in length between ranks.
    add: Callable[[Communicator, Iterable[Numbers]], Sequence[float]]
    #: For each parameter, numbers that add up to its gradient's squared norm.
    squares: Callable[[Iterable[Parameter]], list[Array]]


def _plainly(comm: Communicator, numbers: Iterable[Numbers]) -> Sequence[float]:
    sums = np.array([sum(found) for found in numbers], np.float64)
    comm.allreduce(sums)
    return sums.tolist()


#: In float64, in whatever order comes.
PLAIN_SUMS = Sums(add=_plainly, squares=squared_norms)


class Update:
    """TALLY and STEP for the stages of a rank."""

    def __init__(
        self,
        comm: Communicator,
        compute: Compute,
        states: Mapping[int, OptimizerState],
        counted: Sequence[Parameter],
        reached: Reached,
        clip: float | None,
        sums: Sums = PLAIN_SUMS,
        clip_value: float | None = None,
        statistics: Sequence[str] = (),
    ) -> None:
        """`states` by stage; `counted` are the parameters, or shards of some, that this rank alone enters into the norm.

        `reached` finds those that a step leaves alone.  `clip` bounds the norm of the mean gradient, and then `clip_value` each
        of its elements.  `statistics` are the names of the model's, whichever rank has them.
        """
        self.comm, self.compute, self.states, self.counted, self.clip = comm, compute, states, counted, clip
        self.sums, self.clip_value, self.reached = sums, clip_value, reached
        self.unreached = frozenset[str]()
        mine = {s.name: s for state in states.values() for s in state.statistics}
        #: The model's statistics, `None` for those of other ranks.
        self.statistics = [mine.get(name) for name in statistics]
        #: Whether this rank knows that what comes next has other shapes, and whether any rank did in the last tally.
        self.changing: Callable[[], bool] = lambda: False
        self.changes = False
        self.metrics = Metrics(loss=math.nan, count=0)
        self.grad_scale = 1.0

    def tally(self, action: Action) -> None:
        """TALLY: add up over all ranks.  `NotFiniteError` on every rank if the loss or a gradient is not finite."""
        training = self.compute.context.record
        norms = self.sums.squares(p for p in self.counted if training and p.trained)
        squares = np.concatenate([np.zeros(0), *(to_host(found).reshape(-1) for found in norms)])
        missed = self.reached.missed() if training else []
        compute = self.compute
        here: list[Numbers] = [compute.loss_values(), [compute.count], [compute.correct], squares]
        here += [[float(len(missed))], [float(self.changing())]]
        here += [[statistic.rows if statistic else 0.0] for statistic in self.statistics]
        loss_sum, count, correct, norm, misses, changing, *observed = self.sums.add(self.comm, here)
        for statistic, total in zip(self.statistics, observed, strict=True):
            if statistic:
                statistic.rows = total  # of all ranks, as what they observed was summed
        self.changes = changing > 0
        self.unreached = self.reached.nowhere(missed) if misses else frozenset()
        loss = loss_sum / count if count else math.nan
        # Gradients were seeded with the weight of a sample; what is wanted is that of the mean over the counted targets.
        scale = 1.0 / (count * self.compute.context.sample_weight) if count else math.nan
        accuracy = correct / count if count and not training and isinstance(self.compute.loss, Classification) else None
        grad_norm = scale * math.sqrt(norm) if norm >= 0 else math.nan
        rate = next(iter(self.states.values())).lr if training else 0.0
        self.metrics = Metrics(loss=loss, count=count, grad_norm=grad_norm, learning_rate=rate, accuracy=accuracy)
        if training and not count:
            self.metrics = Metrics(loss=math.nan, count=0, learning_rate=rate, skipped=True)
            self.unreached = frozenset(p.name for state in self.states.values() for p in state.trained)
            self.grad_scale = 1.0
            return
        if training and not (math.isfinite(loss) and math.isfinite(self.metrics.grad_norm)):
            raise NotFiniteError(f"loss {loss}, gradient norm {self.metrics.grad_norm}")
        self.grad_scale = scale * clip_scale(self.metrics.grad_norm, self.clip)

    def step(self, action: Action) -> None:
        """STEP: update the stage's weights with the mean gradient, clipped."""
        state = self.states[action.stage]
        if self.clip_value is not None:
            clip_values(state.trained, self.clip_value / self.grad_scale)
        state.step(grad_scale=self.grad_scale, unreached=self.unreached)
