"""Cast: gradients travel in a shorter floating-point type and are summed in a longer one.

Invariant: an element is rounded twice, once before the sum and once after it, however many replicas there are; the sum runs in
their order, on the rank that owns the element, so all of them get the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from mpitrain.arrays import float_dtype, namespace, sum_dtype
from mpitrain.bounds import Known
from mpitrain.comm import Collective, Peers
from mpitrain.comm.allgather import allgather
from mpitrain.comm.alltoall import alltoall
from mpitrain.data import split
from mpitrain.parallel.compression.compressor import Compressor, Piece, deal, joined


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast(Compressor):
    """The sum is round(Σ round(g)): each rank gets one share of every gradient, sums it, and hands the result to all.

    `dtype` is what travels; 16-bit types are summed in float32.  float16 ends at 65504 and loses what is below 6e-8; bfloat16
    has float32's range and 8 bits of precision.  Sends 2(p-1)/p n w bytes for w bytes of `dtype`.
    Micikevicius et al. 2018, "Mixed precision training", section 3.3 (sums in float32).
    """

    dtype: Annotated[str, Known(float_dtype)] = "bfloat16"

    def exchange(self, peers: Peers, pieces: Sequence[Piece], *, step: int, tag: int) -> Collective:
        """See the class."""
        grads = [piece.grad for piece in pieces]
        xp, dtype = namespace(grads[0]), float_dtype(self.dtype)
        wire = joined([grad.astype(dtype) for grad in grads])
        shares = [wire[start:stop] for start, stop in split(wire.size, peers.size)]
        mine = shares[peers.rank]
        parts = [xp.empty_like(mine) for _ in shares]
        yield from alltoall(peers, shares, parts, tag)
        total = parts[0].astype(sum_dtype(dtype))
        for part in parts[1:]:
            total += part
        mine[...] = total
        yield from allgather(peers, shares, tag)
        deal(wire, grads)
