"""`OptimizerState`: what an optimizer remembers of the parameters that a rank holds, and the step that it takes.

Invariant: every array here belongs to a parameter and has its box, so that a checkpoint stores it in the parameter's global
coordinates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from mpitrain.arrays import Array, empty_beside, sum_dtype
from mpitrain.kernels.table import TWINS, Kernels
from mpitrain.nn import Parameter, Statistic
from mpitrain.optim.optimizer import Optimizer


class OptimizerState:
    """The slots of `parameters`, which have been materialized, and the number of steps taken.

    Slots of 16-bit weights are float32.  `kernels` are what this rank computes with.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Parameter], kernels: Kernels = TWINS) -> None:
        self.optimizer, self.kernels = optimizer, kernels
        self.step_count = 0
        self.statistics = [p for p in parameters if isinstance(p, Statistic)]
        self.trained = [p for p in parameters if p.trained]
        #: By name, the steps in which nothing reached a parameter: to it they are none.
        self.missed = Counter[str]()
        self._rules = [optimizer.for_parameter(p) for p in self.trained]
        self._slots = [{name: _zeros_for(p.data) for name in optimizer.slots} for p in self.trained]

    @property
    def lr(self) -> float:
        """The learning rate of the next step, before any group's scale."""
        return self.optimizer.lr * self.optimizer.schedule(self.step_count)

    def step(self, *, grad_scale: float = 1.0, unreached: Collection[str] = ()) -> None:
        """Take one step along `grad_scale` times the accumulated gradients, and forget these.

        The parameters whose names are `unreached` are left alone, and so is all that is remembered of them.
        """
        factor = self.optimizer.schedule(self.step_count)
        self.step_count += 1
        for p, rule, slots in zip(self.trained, self._rules, self._slots, strict=True):
            if p.name in unreached:
                self.missed[p.name] += 1
            else:
                lr, step, grad = rule.lr * factor, self.step_count - self.missed[p.name], p.settled_grad()
                rule.update(p.data, grad, slots, lr=lr, step=step, grad_scale=grad_scale, kernels=self.kernels)
            p.clear_grad()
        for s in self.statistics:
            if s.rows:
                s.data += s.momentum * (s.settled_grad() / s.rows - s.data)
            s.clear_grad()

    def arrays(self) -> dict[str, tuple[Array, Parameter]]:
        """Every slot array under `<slot>/<parameter's name>`, with the parameter that it belongs to."""
        return {
            f"{slot}/{p.name}": (array, p)
            for p, slots in zip(self.trained, self._slots, strict=True)
            for slot, array in slots.items()
        }


def _zeros_for(x: Array) -> Array:
    zeros = empty_beside(x, dtype=sum_dtype(x.dtype))
    zeros.fill(0)
    return zeros
