"""Reproducible data parallelism: the same bits for every dp x pp of the same batch and microbatches, in any schedule.

Invariant: floats are computed where the layout has no say, on one microbatch by one op or on one row of a parameter, and are
added across microbatches, stages and ranks as integers only, so order and grouping are immaterial (`kernels.exact_sum`).

What an op contributes to a gradient is made from one microbatch, of the same samples and shape under every layout, by the same
call; it is folded into the parameter's total the moment it is there.  Totals are summed over replicas, and over the stages that
share the parameter, before they are rounded back, once.  Losses and squared norms, a float64 for each microbatch and each row
of a parameter, are summed exactly too, so loss, clipping and the optimizer's step follow bit by bit.  With ZeRO, a replica
rounds the rows that it keeps; no row is ever divided, and what works on elements gives them the same bits in any array.

That holds between processors and library versions as far as these give the same bits for one call; the number of threads of the
linear algebra library has to be the same.  It costs 16 bytes a parameter (at every level of ZeRO: totals are whole until the
step's exchange), a pass over each contribution, and on the wire, for n parameters of 4 bytes, (8 + 4) n (p-1)/p, or
(16 + 4) n (p-1)/p where gradients are large, instead of (4 + 4) n (p-1)/p.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mpitrain.arrays import Array, empty_beside, namespace, to_host
from mpitrain.autograd import Weight
from mpitrain.comm import Collective, Communicator, Reduction, finish
from mpitrain.comm.allreduce import ring
from mpitrain.kernels.exact_sum import (
    CARRY_EVERY,
    LIMIT,
    MAX_ADDENDS,
    NARROW,
    carry,
    exact_zeros,
    fold,
    from_exact,
    narrow,
    restore,
    to_exact,
)
from mpitrain.nn import Parameter
from mpitrain.optim import squared_row_norms
from mpitrain.parallel.buckets import Bucket
from mpitrain.parallel.rows import gather_rows, reduce_rows, rows_of
from mpitrain.parallel.tied import TiedWeights
from mpitrain.program import Numbers, Sums
from mpitrain.program.action import Action

#: Bytes of a parameter's total, for each of its elements.
EXACT_BYTES = 16


class _Total:
    """What has come in for a parameter in this step: its exact sum, the largest magnitude, how many contributions."""

    def __init__(self, parameter: Parameter, mine: Parameter, replicas: Communicator) -> None:
        """`mine` is what this replica keeps of `parameter`: all of it, or a shard."""
        self.parameter, self.mine, self.sharded = parameter, mine, mine is not parameter
        self.sum = exact_zeros(mine.data, parameter.size)
        self.peak = empty_beside(mine.data, ())
        self.peak.fill(0)
        self.addends = 0
        # A shard is rows; whole parameters are dealt by elements, which is more even.
        self._shape = parameter.shape if self.sharded else (parameter.size,)
        self._replicas = replicas

    def words(self) -> list[Array]:
        """What has to be summed over ranks, once they agree on `peak` and `addends`: lo, and hi if it is needed."""
        narrows = float(self.peak) * self.addends < NARROW
        return [row.reshape(self._shape) for row in (narrow(self.sum) if narrows else carry(self.sum))]

    def round(self, out: Array) -> None:
        """Write this replica's part of the sum into `out`, NaN if something was not finite; then nothing has come in."""
        parts = [rows_of(row.reshape(self._shape), self._replicas.size, self._replicas.rank).reshape(-1) for row in self.sum]
        restore(parts, out.reshape(-1))
        if not np.isfinite(float(self.peak)):
            out.fill(np.nan)
        self.sum.fill(0)
        self.peak.fill(0)
        self.addends = 0


class ExactGradients:
    """The exchange of buckets, and TIE, of a reproducible job."""

    def __init__(
        self,
        replicas: Communicator,
        tied: TiedWeights,
        stages: Mapping[int, Sequence[Parameter]],
        kept: Mapping[int, Sequence[Parameter]],
    ) -> None:
        """From here on, every contribution to a gradient of the parameters of `stages` is folded into its total.

        `kept` gives, for each of them, itself or the shard of it that this replica updates.
        """
        self.replicas, self.tied = replicas, tied
        pairs = [pair for stage in stages for pair in zip(stages[stage], kept[stage], strict=True)]
        self.totals = {p: _Total(p, mine, replicas) for p, mine in pairs}
        self.of_kept = {mine: self.totals[p] for p, mine in pairs}
        self.shared = {self.of_kept[mine] for mine, _ in tied.joins}
        for parameter in self.totals:
            parameter.sink = self._fold

    def exchange(self, bucket: Bucket) -> Collective:
        """Sum the totals of the bucket over the replicas, and round them back, except those that TIE goes on with."""
        size, rank, tag = self.replicas.size, self.replicas.rank, bucket.index
        totals = [self.totals[p] for p in bucket.parameters]
        yield from _agree(self.replicas, totals, tag)
        # Each replica sums, and rounds, a part of every total.
        if size > 1:
            words = [row for total in totals for row in total.words()]
            yield from reduce_rows(self.replicas, words, [rows_of(row, size, rank) for row in words], tag, add=False)
        yield from self._rounded([total for total in totals if total not in self.shared], tag)

    def tie(self, action: Action) -> None:
        """TIE: sum the totals of the rank's shared parameters over the stages, and round them back."""
        for mine, group in self.tied.joins:
            total = self.of_kept[mine]
            finish(_agree(group, [total], tag=0))
            for row in total.words():
                group.allreduce(rows_of(row, self.replicas.size, self.replicas.rank))
            finish(self._rounded([total], tag=0))

    def _rounded(self, totals: Sequence[_Total], tag: int) -> Collective:
        """Round this replica's part of each of `totals`; parts of what every replica keeps whole then go round as floats."""
        size, rank = self.replicas.size, self.replicas.rank
        whole = []
        for total in totals:
            grad = total.mine.settled_grad()
            if total.sharded:
                total.round(grad)
            else:
                whole.append(grad.reshape(-1))
                total.round(rows_of(whole[-1], size, rank))
        if size > 1 and whole:
            yield from gather_rows(self.replicas, whole, tag)

    def _fold(self, weight: Weight) -> None:
        assert isinstance(weight, Parameter)
        total = self.totals[weight]
        fold(weight.grad, total.sum, total.peak)
        total.addends += 1
        if total.addends % CARRY_EVERY == 0:
            carry(total.sum)
        weight.fresh = True
        if total.sharded:
            weight.grad = None  # what is kept is the shard's


def _exactly(comm: Communicator, numbers: Iterable[Numbers]) -> list[float]:
    words = np.stack([to_exact(found) for found in numbers])
    comm.allreduce(words)
    return [from_exact(found) for found in words]


#: Each sum correctly rounded; NaN if one of its numbers is not finite.
EXACT_SUMS = Sums(add=_exactly, squares=squared_row_norms)


def _agree(comm: Communicator, totals: Sequence[_Total], tag: int) -> Collective:
    """Bring peaks and counts up to those of all ranks; `ValueError`, on each of them, where an exact sum is out of reach."""
    peaks = to_host(namespace(totals[0].peak).stack([total.peak for total in totals]))
    marks = np.array([*peaks.tolist(), *(total.addends for total in totals)], np.float64)
    yield from ring(comm, marks, Reduction.MAX, tag)
    for total, peak, addends in zip(totals, *marks.reshape(2, -1).tolist(), strict=True):
        total.peak[...], total.addends = peak, int(addends) * comm.size
        if LIMIT <= peak < np.inf:
            raise ValueError(
                f"parameter {total.parameter.name} has a gradient of {peak:.3g} from one microbatch, and reproducible = true "
                f"sums what is below {LIMIT:.3g}; scale the loss or the data down, or set reproducible = false"
            )
        if total.addends > MAX_ADDENDS:
            raise ValueError(
                f"parameter {total.parameter.name} has {total.addends} contributions to its gradient in a step, and "
                f"reproducible = true sums up to {MAX_ADDENDS}; use fewer, larger microbatches, or set reproducible = false"
            )
