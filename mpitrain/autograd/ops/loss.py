"""Losses, summed over the counted targets; targets are plain arrays, not tensors."""

from __future__ import annotations

from mpitrain.arrays import Array, namespace
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor
from mpitrain.bounds import Part, checked


@checked
def cross_entropy(logits: Tensor, targets: Array, *, ignore_index: int = -100, label_smoothing: Part = 0.0) -> Tensor:
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
        xp, classes = namespace(logits), logits.shape[-1] if logits.ndim else 0
        _check_targets(self.targets, logits.shape[:-1], f"logits of shape {tuple(logits.shape)}")
        if not classes:
            raise ValueError(f"logits of shape {tuple(logits.shape)} have no classes; expected at least one, in the last dim")
        checks.labels("target", self.targets, classes, ignored=self.ignore_index, wait=self.context.check)
        logits = checks.real(logits, self.context.dtype)
        loss, self.dx = self.context.kernels.taking(logits.dtype).cross_entropy(
            logits.reshape(-1, classes),
            xp.asarray(self.targets, "int64").reshape(-1),
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
        _check_targets(self.targets, y.shape, f"outputs of shape {tuple(y.shape)}")
        y = checks.real(y, self.context.dtype)
        self.difference = y - xp.asarray(self.targets, y.dtype)
        return xp.asarray(xp.sum(self.difference * self.difference))

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (self.difference * (2.0 * dy),)


def _check_targets(targets: Array, shape: tuple[int, ...], of: str) -> None:
    """`ValueError` if the targets have not this shape: broadcasting would count some of them twice."""
    if tuple(targets.shape) != tuple(shape):
        raise ValueError(f"targets of shape {tuple(targets.shape)} are given for {of}; expected {tuple(shape)}, one for each")
