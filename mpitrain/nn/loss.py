"""Losses, as sums over counted targets (the `Loss` protocol)."""

from __future__ import annotations

from dataclasses import dataclass

from mpitrain.arrays import Array
from mpitrain.autograd import Tensor, ops
from mpitrain.bounds import Part, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropy:
    """-log softmax(logits)[target] for logits (..., classes) and integer targets (...).

    Targets equal to `ignore_index` are neither summed nor counted.  `label_smoothing` s trains towards (1 - s) on the target
    plus s spread over all classes (Szegedy et al. 2016, section 7).
    """

    ignore_index: int = -100
    label_smoothing: Part = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, y: Tensor, targets: Array) -> Tensor:
        """The sum over the counted targets, shape ()."""
        return ops.cross_entropy(y, targets, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing)

    def count(self, targets: Array) -> float:
        """How many targets are counted."""
        return float((targets != self.ignore_index).sum())

    def correct(self, y: Tensor, targets: Array) -> Array:
        """For how many counted targets the largest logit, of several the first, is the target's, shape ()."""
        return ((y.data.argmax(axis=-1) == targets) & (targets != self.ignore_index)).sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanSquaredError:
    """(y - target)², counted by elements."""

    def __call__(self, y: Tensor, targets: Array) -> Tensor:
        """The sum over all elements, shape ()."""
        return ops.squared_error(y, targets)

    def count(self, targets: Array) -> float:
        """The number of elements."""
        return float(targets.size)
