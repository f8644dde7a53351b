"""Softmax and cross entropy, a row at a time in cache; what they compute: see the twin."""

from __future__ import annotations

import math

import numpy as np
from numpy import float32

from mpitrain.arrays import Array, empty_beside
from mpitrain.kernels.compiled import compiled, plain
from mpitrain.kernels.functions import exp


def cross_entropy(
    logits: Array, targets: Array, *, ignore_index: int, label_smoothing: float, grad: bool
) -> tuple[Array, Array | None]:
    """See the twin."""
    targets, classes = plain(np.asarray(targets, np.int64)), logits.shape[1]
    d_logits = empty_beside(logits) if grad else None
    rows = empty_beside(logits, (1, classes)) if d_logits is None else d_logits
    loss = _cross_entropy(plain(logits), targets, ignore_index, label_smoothing, rows)
    return np.array(loss, np.float32), d_logits


@compiled("float64(float32[:, ::1], int64[::1], int64, float32, float32[:, ::1])", sums=True)
def _cross_entropy(logits: Array, targets: Array, ignore_index: int, smoothing: float, out: Array) -> float:
    """The loss; the gradient goes to `out`, or exponentials alone where that has but one row."""
    v, loss = logits.shape[1], 0.0
    for i in range(len(targets)):
        z, e = logits[i], out[i % len(out)]
        if targets[i] == ignore_index:
            for j in range(v):
                e[j] = float32(0)
            continue
        shift = total = plain_sum = float32(0)
        for j in range(v):
            e[j] = exp(z[j])
            total += e[j]
            plain_sum += z[j]
        if not (total > float32(1e-20) and total < float32(1e20)):  # NaN too
            shift = z[0]
            for j in range(v):
                shift = max(shift, z[j])
            total = plain_sum = float32(0)
            for j in range(v):
                e[j] = exp(z[j] - shift)
                total += e[j]
                plain_sum += z[j] - shift
        own = z[targets[i]] - shift
        loss += math.log(total) - (float32(1) - smoothing) * own
        if smoothing > float32(0):  # or a logit of -inf would count
            loss -= smoothing * plain_sum / float32(v)
        for j in range(v):
            e[j] = e[j] / total - smoothing / float32(v)
        e[targets[i]] -= float32(1) - smoothing
    return loss
