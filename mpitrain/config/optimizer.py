"""The sections `[optimizer]` and `[schedule]`: one class for each `kind`.

Invariant: the keys are the arguments of the optimizer or the schedule, so `build` passes them on as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from mpitrain import optim
from mpitrain.bounds import Count
from mpitrain.config.section import Section


class GroupSection(Section):
    """One `[[optimizer.groups]]`: settings for some parameters; the first that matches wins."""

    describes = (optim.Group,)
    match: str
    """A regular expression that is searched for in a parameter's name."""
    lr_scale: float = 1.0
    """What their learning rate is multiplied by."""
    weight_decay: float | None = None
    """Their weight decay; by default what they have without a group."""
    trained: bool | None = None
    """Whether they are trained: false freezes them, which costs no gradient and no optimizer state; by default as the model
    says."""

    def build(self) -> optim.Group:
        """The group."""
        return optim.Group(**self.settings())


class _Optimizer(Section):
    lr: float
    """Learning rate, before the schedule's factor."""
    base_batch: Count | None = None
    """Batch that `lr` is right for, from which it is scaled to the run's; by default it is taken as it is."""
    scaling: Literal["linear", "sqrt"] = "linear"
    """How it is scaled; either way, give the schedule a warm-up."""
    groups: tuple[GroupSection, ...] = ()
    """Settings for some parameters."""

    def for_batch(self, batch: int) -> Self:
        """The section with the learning rate for `batch` samples a step."""
        base = batch if self.base_batch is None else self.base_batch
        return self.model_copy(update={"lr": optim.scaled_lr(self.lr, batch, base, self.scaling)})

    def _arguments(self, schedule: optim.LearningRate) -> dict[str, Any]:
        settings = {key: value for key, value in self.settings().items() if key not in ("base_batch", "scaling")}
        return settings | {"schedule": schedule, "groups": tuple(group.build() for group in self.groups)}


class SGDSection(_Optimizer):
    """Gradient descent."""

    describes = (optim.SGD,)
    kind: Literal["sgd"]
    momentum: float = 0.0
    """How much of the last step's direction stays."""
    nesterov: bool = False
    """Whether to look ahead along it."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weight."""

    def build(self, schedule: optim.LearningRate) -> optim.Optimizer:
        """The optimizer."""
        return optim.SGD(**self._arguments(schedule))


class AdamSection(_Optimizer):
    """Adam."""

    describes = (optim.Adam,)
    kind: Literal["adam"]
    betas: tuple[float, float] = (0.9, 0.999)
    """How much of the running means of the gradient and of its square stays."""
    eps: float = 1e-8
    """Added to the root of the latter."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weight."""

    def build(self, schedule: optim.LearningRate) -> optim.Optimizer:
        """The optimizer."""
        return optim.Adam(**self._arguments(schedule))


class AdamWSection(_Optimizer):
    """Adam with decoupled weight decay."""

    describes = (optim.AdamW,)
    kind: Literal["adamw"]
    betas: tuple[float, float] = (0.9, 0.999)
    """How much of the running means of the gradient and of its square stays."""
    eps: float = 1e-8
    """Added to the root of the latter."""
    weight_decay: float = 0.01
    """Part of a weight, times the learning rate, that a step takes off."""

    def build(self, schedule: optim.LearningRate) -> optim.Optimizer:
        """The optimizer."""
        return optim.AdamW(**self._arguments(schedule))


class LAMBSection(_Optimizer):
    """LAMB, for large batches."""

    describes = (optim.LAMB,)
    kind: Literal["lamb"]
    betas: tuple[float, float] = (0.9, 0.999)
    """How much of the running means of the gradient and of its square stays."""
    eps: float = 1e-6
    """Added to the root of the latter."""
    weight_decay: float = 0.01
    """Part of a weight in the direction of the step."""
    adapt_vectors: bool = False
    """Whether the step's length follows the norm for biases and norms, too."""

    def build(self, schedule: optim.LearningRate) -> optim.Optimizer:
        """The optimizer."""
        return optim.LAMB(**self._arguments(schedule))


class LARSSection(_Optimizer):
    """LARS, for large batches of images."""

    describes = (optim.LARS,)
    kind: Literal["lars"]
    momentum: float = 0.9
    """How much of the last step stays."""
    trust: float = 0.001
    """Length of a step against the weight's norm, at a rate of 1."""
    adapt_vectors: bool = False
    """Whether it follows the norm for biases and norms, too; else their rate is the plain one."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weight."""

    def build(self, schedule: optim.LearningRate) -> optim.Optimizer:
        """The optimizer."""
        return optim.LARS(**self._arguments(schedule))


class ConstantSection(Section):
    """No change after the warm-up."""

    describes = (optim.Constant,)
    kind: Literal["constant"] = "constant"
    warmup: int = 0
    """Steps in which the rate rises."""

    def build(self, steps: int) -> optim.LearningRate:
        """The schedule of a run of `steps`."""
        return optim.Constant(**self.settings())


class LinearSection(Section):
    """A straight line down."""

    describes = (optim.Linear,)
    kind: Literal["linear"]
    warmup: int = 0
    """Steps in which the rate rises."""
    final: float = 0.0
    """Factor at the end."""

    def build(self, steps: int) -> optim.LearningRate:
        """The schedule of a run of `steps`."""
        return optim.Linear(steps=steps, **self.settings())


class CosineSection(Section):
    """Half a cosine down."""

    describes = (optim.Cosine,)
    kind: Literal["cosine"]
    warmup: int = 0
    """Steps in which the rate rises."""
    final: float = 0.0
    """Factor at the end."""

    def build(self, steps: int) -> optim.LearningRate:
        """The schedule of a run of `steps`."""
        return optim.Cosine(steps=steps, **self.settings())


class WSDSection(Section):
    """Warm-up, stable, decay."""

    describes = (optim.WSD,)
    kind: Literal["wsd"]
    decay: int
    """Steps at the end in which the rate falls."""
    warmup: int = 0
    """Steps in which the rate rises."""
    final: float = 0.0
    """Factor at the end."""

    def build(self, steps: int) -> optim.LearningRate:
        """The schedule of a run of `steps`."""
        return optim.WSD(steps=steps, **self.settings())


OptimizerSection = Annotated[SGDSection | AdamSection | AdamWSection | LAMBSection | LARSSection, Field(discriminator="kind")]
ScheduleSection = Annotated[ConstantSection | LinearSection | CosineSection | WSDSection, Field(discriminator="kind")]
