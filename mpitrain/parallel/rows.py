"""Rows of parameters dealt to replicas, and the two exchanges that ZeRO needs: sum each replica's rows, gather all rows.

Invariant: a shard is a run of rows (dim 0) of one parameter, in global coordinates, so checkpoints, clipping and exports see
nothing special; each row is summed on one replica, in an order that depends on that replica's number alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpitrain.arrays import Array, namespace, sum_dtype
from mpitrain.comm import Collective, Communicator
from mpitrain.data import split
from mpitrain.nn import Parameter


def shard_of(parameter: Parameter, replicas: int, rank: int) -> Parameter:
    """The description of the rows of `parameter` that replica `rank` holds; no row, where there are fewer than replicas."""
    shard = Parameter(parameter.shape, parameter.init, decays=parameter.decays)
    shard.name, shard.trained = parameter.name, parameter.trained
    shard.box = (split(parameter.shape[0], replicas)[rank], *parameter.box[1:])
    return shard


def rows_of(x: Array, replicas: int, rank: int) -> Array:
    """The rows of `x` that replica `rank` holds, a view."""
    return x[slice(*split(x.shape[0], replicas)[rank])]


def reduce_rows(comm: Communicator, parts: Sequence[Array], out: Sequence[Array], tag: int, *, add: bool) -> Collective:
    """Sum this rank's rows of each of `parts` over all ranks into `out`, overwriting it or adding to it.

    Pairwise exchange: p-1 messages of n/p bytes each way, (p-1)α + (p-1)/p n(β+γ) for p ranks and n bytes; the half of a
    bandwidth-optimal allreduce.  Thakur et al. 2005, "Optimization of collective communication operations in MPICH", section
    3.3.
    """
    p, rank = comm.size, comm.rank
    # What leaves is copied before the first yield: `parts` may be freed or written again meanwhile.
    packed = {peer: _pack([rows_of(part, p, peer) for part in parts]) for peer in range(p)}
    total = packed.pop(rank)
    total = total.astype(sum_dtype(total.dtype), copy=False)
    for step in range(1, p):
        dest, source = (rank + step) % p, (rank - step) % p
        leaving = comm.isend(packed[dest], dest, tag) if packed[dest].size else None
        if total.size:
            received = namespace(total).empty(total.shape, packed[dest].dtype)
            yield comm.irecv(received, source, tag)
            total += received
        if leaving is not None:
            yield leaving
    for piece, target in zip(_unpack(total, out), out, strict=True):
        if add:
            target += piece.astype(target.dtype, copy=False)
        else:
            target[...] = piece


def gather_rows(comm: Communicator, wholes: Sequence[Array], tag: int) -> Collective:
    """Fill in, in each of `wholes`, the rows of all other ranks; this rank's are there.

    Every rank sends its rows to each other one: (p-1)α + (p-1)/p nβ for p ranks and n bytes.
    """
    p, rank = comm.size, comm.rank
    mine = _pack([rows_of(whole, p, rank) for whole in wholes])
    peers = [(rank - step) % p for step in range(1, p)]
    targets = {peer: [rows_of(whole, p, peer) for whole in wholes] for peer in peers}
    received = {peer: namespace(mine).empty((sum(t.size for t in targets[peer]),), mine.dtype) for peer in peers}
    arriving = {peer: comm.irecv(received[peer], peer, tag) for peer in peers if received[peer].size}
    leaving = [comm.isend(mine, peer, tag) for peer in peers if mine.size]
    for peer, request in arriving.items():
        yield request
        for piece, target in zip(_unpack(received[peer], targets[peer]), targets[peer], strict=True):
            target[...] = piece
    yield from leaving


def _pack(pieces: Sequence[Array]) -> Array:
    """The pieces end to end, in memory of their own."""
    return namespace(pieces[0]).concatenate([piece.reshape(-1) for piece in pieces])


def _unpack(flat: Array, like: Sequence[Array]) -> list[Array]:
    """Views into `flat` with the shapes of `like`."""
    views, start = [], 0
    for x in like:
        views.append(flat[start : start + x.size].reshape(x.shape))
        start += x.size
    return views
