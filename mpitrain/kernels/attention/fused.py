"""What attention does to a block beside the products, each in one sweep; what they compute: see the twin."""

from __future__ import annotations

from numpy import float32

from mpitrain.arrays import Array, empty_beside
from mpitrain.kernels.compiled import compiled
from mpitrain.kernels.functions import exp


def turned(x: Array, scale: float) -> Array:
    """See the twin; here the result is contiguous, so that a product with it is as quick as without turning."""
    b, k, _, t, d = x.shape
    out = empty_beside(x, (b, k, d, t))
    _turned(x[:, :, 0], scale, out)
    return out[:, :, None]


def softmax(p: Array, first: int, start: int, stop: int, window: int) -> None:
    """See the twin."""
    _softmax(p.reshape(-1, *p.shape[3:]), first, start, stop, window, empty_beside(p, (stop,)))


def softmax_grad(p: Array, dp: Array, first: int, start: int, stop: int) -> None:
    """See the twin."""
    _softmax_grad(p.reshape(-1, *p.shape[3:]), dp.reshape(-1, *dp.shape[3:]), first, start, stop)


_ROWS = "float32[:, :, ::1]"
_TILE = 16  # a cache line of what is read, and of what is written


@compiled("void(float32[:, :, :, :], float32, float32[:, :, :, ::1])")
def _turned(x: Array, scale: float, out: Array) -> None:
    n, heads, d, time = out.shape
    for i in range(n):
        for h in range(heads):
            whole = time // _TILE * _TILE
            for first in range(0, whole, _TILE):
                for j in range(d):
                    for t in range(_TILE):  # a count that the compiler knows: twice as quick
                        out[i, h, j, first + t] = x[i, h, first + t, j] * scale
            for j in range(d):
                for t in range(whole, time):
                    out[i, h, j, t] = x[i, h, t, j] * scale


@compiled(f"void({_ROWS}, int64, int64, int64, int64, float32[::1])", sums=True)
def _softmax(p: Array, first: int, start: int, stop: int, window: int, e: Array) -> None:
    """`e` is scratch for a row of exponentials, in cache: the scores stay for a second try."""
    for n in range(p.shape[0]):
        for i in range(start, stop):
            seen = min(i + 1 - first, window)
            row = p[n, i, i + 1 - seen : i + 1]
            total = float32(0)
            for j in range(seen):
                e[j] = exp(row[j])
                total += e[j]
            if not (total > float32(1e-20) and total < float32(1e20)):  # NaN too
                largest = row[0]
                for j in range(seen):
                    largest = max(largest, row[j])
                total = float32(0)
                for j in range(seen):
                    e[j] = exp(row[j] - largest)
                    total += e[j]
            for j in range(seen):
                row[j] = e[j] / total
            p[n, i, first : i + 1 - seen] = float32(0)
            p[n, i, i + 1 : stop] = float32(0)


@compiled(f"void({_ROWS}, {_ROWS}, int64, int64, int64)", sums=True)
def _softmax_grad(p: Array, dp: Array, first: int, start: int, stop: int) -> None:
    for n in range(p.shape[0]):
        for i in range(start, stop):
            row, d_row = p[n, i, first:stop], dp[n, i - start]
            along = float32(0)
            for j in range(stop - first):
                along += row[j] * d_row[j]
            for j in range(stop - first):
                row[j] *= d_row[j] - along
