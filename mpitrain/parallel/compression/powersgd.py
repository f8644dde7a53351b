"""PowerSGD: a gradient as a product of two thin matrices, one power iteration a step.

Invariant: what was applied and the residuals that replicas keep add up to what there was; the factor Q is the same everywhere
and starts the next step's iteration where this one ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpitrain.arrays import Stream, namespace, row_tiles
from mpitrain.bounds import Count, NotNegativeInt
from mpitrain.comm import Collective, Peers
from mpitrain.nn import Parameter
from mpitrain.parallel.compression.compressor import Compressor, Held, Piece, Slot, sum_dense


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerSGD(Compressor):
    """M = E + G;  P = orthonormal columns of Σ M Q;  R = Mᵀ P;  E' = M - P Rᵀ;  Q' = Σ R;  the sum is P Q'ᵀ.

    G is a replica's gradient as a matrix (dim 0 × the rest), E its residual, Q has `rank` columns, normal numbers at the start.
    Vectors, and matrices that the factors would not shorten, are summed as they are; so is all in the first `warmup` steps.
    Sends 2(p-1)/p r(a+b) w bytes for a gradient of a × b.
    Vogels, Karimireddy and Jaggi 2019, "PowerSGD: practical low-rank gradient compression for distributed optimization",
    algorithms 1 and 2.  Columns are made orthonormal by Householder's reflections: up to sign these are Gram and Schmidt's, and
    hold where columns depend on each other.
    """

    rank: Count = 4
    warmup: NotNegativeInt = 0
    seed: int = 0

    def takes(self, parameter: Parameter) -> bool:
        """Whether the factors are smaller than the gradient."""
        a, b = _matrix(parameter.shape)
        return self.rank * (a + b) < a * b

    def slots(self, parameter: Parameter) -> tuple[Slot, ...]:
        """The residual and Q."""
        start = Stream(self.seed, f"powersgd/{parameter.name}")
        return (
            Slot(name="residual", held=Held.EACH, shape=parameter.shape),
            Slot(name="powersgd_q", held=Held.ALL, shape=(_matrix(parameter.shape)[1], self.rank), start=start),
        )

    def exchange(self, peers: Peers, pieces: Sequence[Piece], *, step: int, tag: int) -> Collective:
        """See the class."""
        if step < self.warmup:
            yield from sum_dense(peers, [piece.grad for piece in pieces], tag)
            return
        matrices = [piece.state["residual"].reshape(len(piece.grad), -1) for piece in pieces]
        for piece, m in zip(pieces, matrices, strict=True):
            m += piece.grad.reshape(m.shape)
        columns = [m @ piece.state["powersgd_q"] for piece, m in zip(pieces, matrices, strict=True)]
        yield from sum_dense(peers, columns, tag)
        bases = [namespace(p).linalg.qr(p)[0] for p in columns]
        rows = [m.T @ p for m, p in zip(matrices, bases, strict=True)]
        for m, p, r in zip(matrices, bases, rows, strict=True):
            for tile in row_tiles(m):
                m[tile] -= p[tile] @ r.T
        yield from sum_dense(peers, rows, tag)
        for piece, m, p, q in zip(pieces, matrices, bases, rows, strict=True):
            # A column of zeros, as of a gradient that has not begun, would stay one for ever.
            piece.state["powersgd_q"][...] = namespace(q).where(q.any(axis=0), q, piece.state["powersgd_q"])
            total = piece.grad.reshape(m.shape)
            for tile in row_tiles(m):
                total[tile] = p[tile] @ q.T


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of an array of `shape` as a matrix."""
    return shape[0], math.prod(shape[1:])
