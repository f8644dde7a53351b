"""Top-k: each replica sends the elements that are largest, and keeps the others for later.

Invariant: what was sent and what is kept add up to what there was, element by element.
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
class TopK(Compressor):
    """a = e + g;  s = the k elements of a of largest magnitude;  e' = a - s;  the sum is Σ s.

    g is a replica's gradient of a parameter, e its residual, k = `density` n.  Without `error_feedback`, e is always zero.
    Sends (p-1) k (w+4) bytes.
    Aji and Heafield 2017, "Sparse communication for distributed gradient descent"; Stich, Cordonnier and Jaggi 2018,
    "Sparsified SGD with memory", section 2.
    """

    density: Density = 0.01
    error_feedback: bool = True

    def slots(self, parameter: Parameter) -> tuple[Slot, ...]:
        """The residual, if there is feedback."""
        return (Slot(name="residual", held=Held.EACH, shape=parameter.shape),) if self.error_feedback else ()

    def exchange(self, peers: Peers, pieces: Sequence[Piece], *, step: int, tag: int) -> Collective:
        """See the class."""
        where, values = [], []
        for piece in pieces:
            flat = piece.grad.reshape(-1)
            if self.error_feedback:
                carried = piece.state["residual"].reshape(-1)
                carried += flat
                flat = carried
            where.append(largest(flat, count_of(flat.size, self.density)))
            values.append(flat[where[-1]])
            if self.error_feedback:
                flat[where[-1]] = 0
        yield from sum_sparse(peers, where, values, [piece.grad for piece in pieces], tag)
