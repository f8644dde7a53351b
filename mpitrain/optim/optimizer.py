"""Optimizers: settings, and the rule by which one weight follows its gradient.

Invariant: an optimizer has no state.  What it remembers of a weight is arrays of the weight's shape, its slots, which
`OptimizerState` keeps under the names given here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Self

from mpitrain.arrays import Array
from mpitrain.bounds import Known, NotNegative, Positive, Rate, check_fields
from mpitrain.kernels.lamb import lamb
from mpitrain.kernels.lars import lars
from mpitrain.kernels.table import TWINS, Kernels
from mpitrain.nn import Parameter
from mpitrain.optim.schedule import Constant, LearningRate

Slots = Mapping[str, Array]
CONSTANT = Constant()


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error}); expected one that Python's re reads") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Settings for the parameters in whose name the regular expression `match` is found.

    With `trained` they are frozen (`False`) or not, whatever `Parameter.trained` says.
    """

    match: Annotated[str, Known(_compiled)]
    lr_scale: NotNegative = 1.0
    weight_decay: NotNegative | None = None
    trained: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self)


ALL_OTHERS = Group(match="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """What all optimizers have.

    A step's learning rate is `lr` times `schedule`'s factor, times the `lr_scale` of the first of `groups` that matches the
    parameter.  Weight decay is that group's, or `weight_decay` for parameters that decay (`Parameter.decays`) and 0 for others.
    `ValueError` for settings that no training can mean.
    """

    lr: NotNegative
    schedule: LearningRate = CONSTANT
    groups: tuple[Group, ...] = ()
    weight_decay: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def needs_whole_weights(self) -> bool:
        """Whether a step on some rows of a weight depends on its other rows, as norms do."""
        return False

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays that `update` keeps for a weight; they are zero at the start."""
        return ()

    def update(
        self, weight: Array, grad: Array, slots: Slots, *, lr: float, step: int, grad_scale: float, kernels: Kernels = TWINS
    ) -> None:
        """Change `weight` and its `slots` in place by step number `step` (the first is 1) along `grad_scale * grad`.

        `kernels` are what this rank computes with.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update()")

    def group_of(self, parameter: Parameter) -> Group:
        """The first group that matches `parameter`."""
        return next((group for group in self.groups if re.search(group.match, parameter.name)), ALL_OTHERS)

    def trains(self, parameter: Parameter) -> bool:
        """Whether `parameter` is trained: as its group says, or else as it says itself."""
        trained = self.group_of(parameter).trained
        return parameter.trained if trained is None else trained

    def check(self, parameters: Iterable[Parameter]) -> None:
        """`ValueError` if a group matches none of `parameters`, those of the model that can be trained."""
        names = [parameter.name for parameter in parameters]
        for group in self.groups:
            if not any(re.search(group.match, name) for name in names):
                close = ", ".join(get_close_matches(group.match, names, cutoff=0.0))
                raise ValueError(
                    f"the optimizer's group match = {group.match!r} is found in the name of no parameter that can be trained; "
                    f"expected part of one, such as of {close}"
                )

    def for_parameter(self, parameter: Parameter) -> Self:
        """The optimizer as it treats `parameter`: the settings of its group are its own."""
        group = self.group_of(parameter)
        decay = self.weight_decay if parameter.decays else 0.0
        if group.weight_decay is not None:
            decay = group.weight_decay
        return replace(self, lr=self.lr * group.lr_scale, weight_decay=decay)


@dataclass(frozen=True, kw_only=True, slots=True)
class SGD(Optimizer):
    """Gradient descent with momentum; weight decay is added to the gradient."""

    momentum: Rate = 0.0
    nesterov: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentum buffer, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def update(
        self, weight: Array, grad: Array, slots: Slots, *, lr: float, step: int, grad_scale: float, kernels: Kernels = TWINS
    ) -> None:
        """See `mpitrain.kernels.sgd`."""
        buffer = slots.get("momentum_buffer")
        direction = {"momentum": self.momentum, "l2": self.weight_decay}
        kernels.sgd(weight, grad, buffer, lr=lr, grad_scale=grad_scale, nesterov=self.nesterov, **direction)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); weight decay is added to the gradient."""

    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Positive = 1e-8

    @property
    def slots(self) -> tuple[str, ...]:
        """The running means of the gradient and of its square."""
        return ("exp_avg", "exp_avg_sq")

    def update(
        self, weight: Array, grad: Array, slots: Slots, *, lr: float, step: int, grad_scale: float, kernels: Kernels = TWINS
    ) -> None:
        """See `mpitrain.kernels.adam`."""
        m, v = slots["exp_avg"], slots["exp_avg_sq"]
        rule = {"lr": lr, "eps": self.eps, "grad_scale": grad_scale, "l2": self.weight_decay}
        kernels.adam(weight, grad, m, v, step=step, betas=self.betas, **rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW(Optimizer):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019)."""

    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.01

    @property
    def slots(self) -> tuple[str, ...]:
        """The running means of the gradient and of its square."""
        return ("exp_avg", "exp_avg_sq")

    def update(
        self, weight: Array, grad: Array, slots: Slots, *, lr: float, step: int, grad_scale: float, kernels: Kernels = TWINS
    ) -> None:
        """See `mpitrain.kernels.adam`."""
        m, v = slots["exp_avg"], slots["exp_avg_sq"]
        rule = {"lr": lr, "eps": self.eps, "grad_scale": grad_scale, "decay": self.weight_decay}
        kernels.adam(weight, grad, m, v, step=step, betas=self.betas, **rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class LAMB(Optimizer):
    """AdamW whose step on each weight is as long as `lr` times the weight's norm (You et al. 2020).

    Vectors (biases, norms) take AdamW's step, as in the authors' code, unless `adapt_vectors`.
    """

    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Positive = 1e-6
    weight_decay: NotNegative = 0.01
    adapt_vectors: bool = False

    @property
    def needs_whole_weights(self) -> bool:
        """The step's length follows the norm of the whole weight."""
        return True

    @property
    def slots(self) -> tuple[str, ...]:
        """The running means of the gradient and of its square."""
        return ("exp_avg", "exp_avg_sq")

    def update(
        self, weight: Array, grad: Array, slots: Slots, *, lr: float, step: int, grad_scale: float, kernels: Kernels = TWINS
    ) -> None:
        """See `mpitrain.kernels.lamb`."""
        m, v = slots["exp_avg"], slots["exp_avg_sq"]
        rule = {"lr": lr, "eps": self.eps, "grad_scale": grad_scale, "decay": self.weight_decay}
        adapts = self.adapt_vectors or weight.ndim > 1
        lamb(weight, grad, m, v, step=step, betas=self.betas, adapts=adapts, **rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class LARS(Optimizer):
    """Gradient descent with momentum, whose rate for each weight is `lr` `trust` ‖w‖ / (‖g‖ + decay ‖w‖) (You et al. 2017).

    The rate is inside of the momentum, as in the paper.  Vectors (biases, norms) have the rate `lr`, as is usual since, unless
    `adapt_vectors`: their norms are small and say little.  Weight decay applies to the weights that decay.
    """

    momentum: Rate = 0.9
    trust: Positive = 0.001
    adapt_vectors: bool = False

    @property
    def needs_whole_weights(self) -> bool:
        """The step's length follows the norm of the whole weight."""
        return True

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentum buffer, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def update(
        self, weight: Array, grad: Array, slots: Slots, *, lr: float, step: int, grad_scale: float, kernels: Kernels = TWINS
    ) -> None:
        """See `mpitrain.kernels.lars`."""
        buffer = slots.get("momentum_buffer")
        rule = {"trust": self.trust, "momentum": self.momentum, "decay": self.weight_decay}
        adapts = self.adapt_vectors or weight.ndim > 1
        lars(weight, grad, buffer, lr=lr, grad_scale=grad_scale, adapts=adapts, **rule)
