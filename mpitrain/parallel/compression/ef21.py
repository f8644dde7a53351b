"""EF21: each replica sends how its gradient differs from what the others think it is.

Invariant: every replica knows the sum of the replicas' estimates, and its own; an estimate that has caught up costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpitrain.bounds import Density
from mpitrain.comm import Collective, Peers
from mpitrain.nn import Parameter
from mpitrain.parallel.compression.compressor import Compressor, Held, Piece, Slot, count_of
from mpitrain.parallel.compression.sparse import largest, sum_sparse


@dataclass(frozen=True, kw_only=True, slots=True)
class EF21(Compressor):
    """c = the k largest elements of g - h;  h' = h + c;  H' = H + Σ c;  the sum is H'.

    h is a replica's estimate of its gradient g, H the sum of all, both zero at the start; k = `density` n.
    Sends (p-1) k (w+4) bytes.
    Richtárik, Sokolov and Fatkhullin 2021, "EF21: a new, simpler, theoretically better, and practically faster error
    feedback", algorithm 2.
    """

    density: Density = 0.01

    def slots(self, parameter: Parameter) -> tuple[Slot, ...]:
        """The estimate h and the sum H."""
        return (
            Slot(name="ef21_estimate", held=Held.EACH, shape=parameter.shape),
            Slot(name="ef21_sum", held=Held.ALL, shape=parameter.shape),
        )

    def exchange(self, peers: Peers, pieces: Sequence[Piece], *, step: int, tag: int) -> Collective:
        """See the class."""
        where, values = [], []
        for piece in pieces:
            estimate = piece.state["ef21_estimate"].reshape(-1)
            difference = piece.grad.reshape(-1) - estimate
            where.append(largest(difference, count_of(difference.size, self.density)))
            values.append(difference[where[-1]])
            estimate[where[-1]] += values[-1]
        yield from sum_sparse(peers, where, values, [piece.grad for piece in pieces], tag)
        for piece in pieces:
            total = piece.state["ef21_sum"]
            total += piece.grad
            piece.grad[...] = total
