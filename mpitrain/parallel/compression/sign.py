"""Signs: a bit for each element to the ranks that count the votes, a bit back, and error feedback on both ways.

Invariant: what was applied, the residuals of the voters and those of the counters add up to what there was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import Array, namespace
from mpitrain.comm import Collective, Peers
from mpitrain.comm.allgather import allgather
from mpitrain.comm.alltoall import alltoall
from mpitrain.data import split
from mpitrain.nn import Parameter
from mpitrain.parallel.compression.compressor import Compressor, Held, Piece, Slot, joined


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign(Compressor):
    """Voters: a = e + g;  c = mean|a| sign a;  e' = a - c.  Counters: b = d + Σ c;  C = mean|b| sign b;  d' = b - C.

    The sum is C.  Rank i counts the votes on its run of each parameter's rows.  Where all replicas are equally sure, and
    nothing is left over from before, C has the sign that most of them voted for; otherwise a vote weighs as much as its voter
    is sure.  Means are taken over a parameter by voters, over their rows of it by counters; a zero has its own sign.
    Sends 2(p-1)/p n/8 bytes, and 2(p-1) w for the means.
    Bernstein et al. 2018, "signSGD: compressed optimisation for non-convex problems" (majority vote); Karimireddy et al. 2019,
    "Error feedback fixes SignSGD and other gradient compression schemes", algorithm 1; Zheng, Huang and Kwok 2019,
    "Communication-efficient distributed blockwise momentum SGD with error-feedback", algorithm 1 (both ways).
    """

    def slots(self, parameter: Parameter) -> tuple[Slot, ...]:
        """The residual e of this voter, and that of the counters, d."""
        return (
            Slot(name="residual", held=Held.EACH, shape=parameter.shape),
            Slot(name="vote_residual", held=Held.ROWS, shape=parameter.shape),
        )

    def exchange(self, peers: Peers, pieces: Sequence[Piece], *, step: int, tag: int) -> Collective:
        """See the class."""
        p, rank = peers.size, peers.rank
        carried, counted = ([piece.state[name] for piece in pieces] for name in ("residual", "vote_residual"))
        for piece, a in zip(pieces, carried, strict=True):
            a += piece.grad
        votes, means = [[_rows(a, p, peer) for a in carried] for peer in range(p)], _means(carried)
        outgoing = [_packed(rows, means) for rows in votes]
        _take_off(carried, means)
        incoming = [namespace(means).empty_like(outgoing[rank]) for _ in range(p)]
        yield from alltoall(peers, outgoing, incoming, tag)
        for ballot in incoming:
            for b, c in zip(counted, _unpacked(ballot, counted), strict=True):
                b += c
        means = _means(counted)
        results = [
            _packed(counted, means) if peer == rank else namespace(means).empty_like(outgoing[peer]) for peer in range(p)
        ]
        _take_off(counted, means)
        yield from allgather(peers, results, tag)
        for peer, result in enumerate(results):
            for piece, c in zip(pieces, _unpacked(result, votes[peer]), strict=True):
                _rows(piece.grad, p, peer)[...] = c


def _rows(x: Array, replicas: int, rank: int) -> Array:
    """The rows of `x` on which rank `rank` counts the votes, a view."""
    return x[slice(*split(len(x), replicas)[rank])]


def _means(arrays: Sequence[Array]) -> Array:
    """The mean magnitude of each array, 0 of an empty one."""
    xp = namespace(arrays[0])
    return xp.stack([xp.abs(x).sum() / max(1, x.size) for x in arrays]).astype(arrays[0].dtype)


def _take_off(arrays: Sequence[Array], means: Array) -> None:
    """Subtract from each array what its signs and its mean stand for."""
    for x, mean in zip(arrays, means, strict=True):
        x -= namespace(x).copysign(mean, x)


def _packed(arrays: Sequence[Array], means: Array) -> Array:
    """The means and a bit for each element, as bytes."""
    xp = namespace(means)
    return joined([means.view(np.uint8), xp.packbits(~xp.signbit(joined(arrays)))])


def _unpacked(message: Array, like: Sequence[Array]) -> list[Array]:
    """The means with the signs of the bits, in arrays of the shapes and the dtype of `like`."""
    xp, dtype = namespace(message), like[0].dtype
    cut = len(like) * dtype.itemsize
    means, bits = message[:cut].view(dtype), xp.unpackbits(message[cut:])
    found, start = [], 0
    for x, mean in zip(like, means, strict=True):
        found.append(bits[start : start + x.size].reshape(x.shape) * (2 * mean) - mean)
        start += x.size
    return found
