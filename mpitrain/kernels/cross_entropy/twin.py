"""Softmax and cross entropy in one sweep over the rows, the gradient included.

Legend: n rows, v classes.  Invariant: a row whose target is the ignored index adds nothing to the loss and has gradient zero.
"""

from __future__ import annotations

from mpitrain.arrays import Array, empty_beside, namespace, row_tiles


def cross_entropy(
    logits: Array, targets: Array, *, ignore_index: int, label_smoothing: float, grad: bool
) -> tuple[Array, Array | None]:
    """The sum over counted rows of (1 - s) * -log p[target] + s * mean(-log p), shape (), and its gradient if asked.

    `logits` is (n, v), `targets` (n,) of integers; s is the label smoothing (Szegedy et al. 2016, section 7).  A target that
    is neither a class nor ignored makes the loss NaN: a device can say no more without being waited for.
    """
    xp, v = namespace(logits), logits.shape[1]
    loss = xp.zeros((), logits.dtype)
    d_logits = empty_beside(logits) if grad else None
    for rows in row_tiles(logits):
        target = targets[rows]
        counted = target != ignore_index
        known = (target >= 0) & (target < v)
        index = xp.where(known, target, 0)
        every = xp.arange(len(index))
        z = xp.subtract(logits[rows], logits[rows].max(axis=1, keepdims=True), out=None if d_logits is None else d_logits[rows])
        losses = z[every, index] * (label_smoothing - 1.0)
        if label_smoothing:
            losses -= z.sum(axis=1) * (label_smoothing / v)
        xp.exp(z, out=z)
        total = z.sum(axis=1)
        losses += xp.log(total)
        losses[counted & ~known] = xp.nan
        loss += xp.sum(losses * counted)
        if d_logits is not None:
            z *= (counted / total).astype(z.dtype)[:, None]
            z[every, index] -= counted * (1.0 - label_smoothing)
            if label_smoothing:
                z -= (counted * (label_smoothing / v)).astype(z.dtype)[:, None]
    return loss, d_logits
