"""`Compression`: what a compressor remembers on this rank, the bytes that it has sent, and the exchange of a bucket.

Invariant: a slot is known by its parameter's name and a number of copies, so a checkpoint stores all of them.  Where as many
copies are read as were written, each rank gets back its own and goes on exactly; otherwise each starts with the sum of all,
divided by the number that there are now: the residuals, of which the sum counts, lose nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import Array, empty_beside, namespace, sum_dtype
from mpitrain.comm import Collective, Communicator, Peers, Place, Reduction, Request
from mpitrain.comm.allreduce import halving
from mpitrain.data import split
from mpitrain.nn import Box, Parameter
from mpitrain.parallel.buckets import Bucket
from mpitrain.parallel.compression.compressor import Compressor, Held, Piece, Slot, sum_dense
from mpitrain.parallel.data import Exchange


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """One slot of one parameter as a checkpoint has it: dim 0 of the global `shape` is the number of the copy.

    `array` has the shape of `box` without dim 0.  `writes` says whether this rank stores it.
    """

    name: str
    array: Array
    shape: tuple[int, ...]
    box: Box
    writes: bool


class Wire:
    """The way to the other replicas, and how many bytes were sent on it, by tag: exchanges may be moved on by two threads."""

    def __init__(self, comm: Communicator) -> None:
        self.rank, self.size = comm.rank, comm.size
        self.sent_bytes: Counter[int] = Counter()
        self._comm = comm

    def isend(self, x: Array, dest: int, tag: int) -> Request:
        """As `Peers.isend`."""
        self.sent_bytes[tag] += int(x.nbytes)
        return self._comm.isend(x, dest, tag)

    def irecv(self, x: Array, source: int, tag: int) -> Request:
        """As `Peers.irecv`."""
        return self._comm.irecv(x, source, tag)


class Compression:
    """The state of `compressor` for `parameters`, which have been materialized, and the sum of their gradients over replicas.

    `shared` gives, for each parameter that several ranks of a pipeline hold, those ranks.  `lossless` is the exchange that is
    compressed.
    """

    def __init__(
        self,
        compressor: Compressor,
        place: Place,
        parameters: Iterable[Parameter],
        *,
        shared: Mapping[str, tuple[int, ...]],
        lossless: Exchange,
    ) -> None:
        self.compressor, self.wire, self.lossless = compressor, Wire(place.dp), lossless
        self._replicas = place.dp
        #: The number of the step that the next exchanges belong to; `None` where nothing may be lost or remembered.
        self.step: int | None = None
        self.state: dict[Parameter, dict[str, Array]] = {}
        self._remembered: list[Remembered] = []
        for parameter in parameters:
            if not _compressed(compressor, parameter) or parameter in self.state:
                continue
            holders = shared.get(parameter.name, (place.pp_rank,))
            widths = [place.layout.widths[pp] for pp in holders]
            slots = [
                _remember(slot, parameter, self.wire, holders.index(place.pp_rank), widths)
                for slot in compressor.slots(parameter)
            ]
            self.state[parameter] = {r.name.partition("/")[0]: r.array for r in slots}
            self._remembered += slots

    @property
    def sent_bytes(self) -> int:
        """Bytes that this rank has sent in the step."""
        return self.wire.sent_bytes.total()

    def begin(self, step: int | None) -> None:
        """Begin step number `step`, or a pass of which nothing is remembered and nothing lost."""
        self.step = step
        self.wire.sent_bytes.clear()

    def exchange(self, bucket: Bucket) -> Collective:
        """Sum the bucket's gradients over the replicas, as the compressor does it."""
        if self.step is None:
            yield from self.lossless(bucket)
            return
        compressed = [p for p in bucket.parameters if p in self.state]
        # What no replica has a gradient of is left alone, and so is what is remembered of it.
        reached = np.array([p.reached for p in compressed], np.uint8)
        if compressed:
            yield from halving(self._replicas, reached, Reduction.MAX, bucket.index)
        pieces = [
            Piece(name=p.name, grad=p.settled_grad(), state=self.state[p])
            for p, somewhere in zip(compressed, reached.tolist(), strict=True)
            if somewhere
        ]
        dense = [p.settled_grad() for p in bucket.parameters if p not in self.state]
        if pieces:
            yield from self.compressor.exchange(self.wire, pieces, step=self.step, tag=bucket.index)
        if dense:
            yield from sum_dense(self.wire, dense, bucket.index)

    def remembered(self) -> list[Remembered]:
        """Every slot that this rank keeps."""
        return self._remembered


def remembered_bytes(compressor: Compressor, parameters: Iterable[Parameter], replicas: int, dtype: np.dtype) -> int:
    """What each of `replicas` remembers of `parameters`, of `dtype`; where each has its rows, of an even deal."""
    return sum(
        math.prod(slot.shape) * sum_dtype(dtype).itemsize // (replicas if slot.held is Held.ROWS else 1)
        for parameter in parameters
        if _compressed(compressor, parameter)
        for slot in compressor.slots(parameter)
    )


def _compressed(compressor: Compressor, parameter: Parameter) -> bool:
    """Whether less than the gradient of `parameter` is sent: of one number, or of none, there is nothing to save."""
    return parameter.trained and parameter.size > 0 and parameter.shape != () and compressor.takes(parameter)


def _remember(slot: Slot, parameter: Parameter, peers: Peers, holder: int, widths: Sequence[int]) -> Remembered:
    """Create this rank's array of a slot.

    `widths` are the numbers of replicas at the places of the pipeline that hold the parameter; this rank's is number `holder`.
    """
    box: Box = tuple((0, n) for n in slot.shape)
    if slot.held is Held.ROWS:
        box = (split(slot.shape[0], peers.size)[peers.rank], *box[1:])
    copy, copies = (holder, len(widths))
    if slot.held is Held.EACH:
        copy, copies = sum(widths[:holder]) + peers.rank, sum(widths)
    array = empty_beside(parameter.data, tuple(stop - start for start, stop in box), sum_dtype(parameter.data.dtype))
    array.fill(0)
    if slot.start is not None:
        array[...] = namespace(array).asarray(slot.start.normal(0, array.size).reshape(array.shape))
    return Remembered(
        name=f"{slot.name}/{parameter.name}",
        array=array,
        shape=(copies, *slot.shape),
        box=((copy, copy + 1), *box),
        writes=array.size > 0 and (slot.held is not Held.ALL or peers.rank == 0),
    )
