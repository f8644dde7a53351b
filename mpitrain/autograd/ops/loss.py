"""Losses, summed over the counted targets; targets are plain arrays, not tensors."""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.autograd.tensor import Op, Tensor


def cross_entropy(logits: Tensor, targets: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(logits)[target] summed over the targets that are not `ignore_index`, shape ().

    `logits` is (..., v), `targets` integers of the leading shape.
    """
    return _CrossEntropy(targets, ignore_index, label_smoothing)(logits)


def squared_error(y: Tensor, targets: Array) -> Tensor:
    """(y - target)² summed over all elements, shape ()."""
    return _SquaredError(targets)(y)


class _CrossEntropy(Op):
    def __init__(self, targets: Array, ignore_index: int, label_smoothing: float) -> None:
        self.targets, self.ignore_index, self.label_smoothing = targets, ignore_index, label_smoothing

    def forward(self, logits: Array) -> Array:
        loss, self.dx = self.context.kernels.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            namespace(logits).asarray(self.targets).reshape(-1),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            grad=self.context.record and self.wanted[0],
        )
        self.shape = logits.shape
        return loss

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        self.dx *= dy
        return (self.dx.reshape(self.shape),)


class _SquaredError(Op):
    def __init__(self, targets: Array) -> None:
        self.targets = targets

    def forward(self, y: Array) -> Array:
        xp = namespace(y)
        self.difference = y - xp.asarray(self.targets, y.dtype)
        return xp.asarray(xp.sum(self.difference * self.difference))

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (self.difference * (2.0 * dy),)
