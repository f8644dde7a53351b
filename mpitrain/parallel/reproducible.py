"""Reproducible data parallelism: the same bits for every dp x pp of the same batch and microbatches, in any schedule.

Invariant: floats are computed where the layout has no say, on one microbatch by one op or on one whole parameter, and are added
across microbatches, stages and ranks as integers only, which makes order and grouping immaterial (`kernels.exact_sum`).

What an op contributes to a gradient is made from one microbatch, of the same samples and shape under every layout, by the same
call; it is folded into the parameter's total the moment it is there.  Totals are summed over replicas, and over the stages that
share the parameter, before they are rounded back, once.  Losses and squared norms, a float64 for each microbatch and each
parameter, are summed exactly too, so loss, clipping and the optimizer's step, which sees whole parameters, follow bit by bit.

That holds between processors and library versions as far as these give the same bits for one call; the number of threads of the
linear algebra library has to be the same.  It costs 16 bytes a parameter, a pass over each contribution, and on the wire, for
n parameters of 4 bytes, (8 + 4) n (p-1)/p, or (16 + 4) n (p-1)/p where gradients are large, instead of (4 + 4) n (p-1)/p.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import Array, empty_beside, namespace, to_host
from mpitrain.autograd import Weight
from mpitrain.comm import Collective, Communicator, Reduction, finish
from mpitrain.comm.allreduce import ring
from mpitrain.data import split
from mpitrain.kernels.exact_sum import (
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
from mpitrain.parallel.buckets import Bucket
from mpitrain.parallel.rows import gather_rows, reduce_rows, rows_of
from mpitrain.parallel.tied import TiedWeights
from mpitrain.program.action import Action


@dataclass(kw_only=True, slots=True)
class _Total:
    """What has come in for a parameter in this step: its exact sum, the largest magnitude, how many contributions."""

    sum: Array
    peak: Array
    addends: int = 0

    def words(self) -> Array:
        """What has to be summed over ranks, once they agree on `peak` and `addends`: lo, and hi if it is needed."""
        return narrow(self.sum) if float(self.peak) * self.addends < NARROW else carry(self.sum)


class ExactGradients:
    """The exchange of buckets, and TIE, of a reproducible job."""

    def __init__(self, replicas: Communicator, tied: TiedWeights, stages: Mapping[int, Sequence[Parameter]]) -> None:
        """From here on, every contribution to a gradient of the parameters of `stages` is folded into its total."""
        self.replicas, self.tied = replicas, tied
        self.totals = {p: _nothing_for(p) for parameters in stages.values() for p in parameters}
        self.shared = {p for joins in tied.joins.values() for p, _ in joins}
        for parameter in self.totals:
            parameter.sink = self._fold

    def exchange(self, bucket: Bucket) -> Collective:
        """Sum the totals of the bucket over the replicas, and round them back, except those that TIE goes on with."""
        size, rank, tag = self.replicas.size, self.replicas.rank, bucket.index
        totals = {p: self.totals[p] for p in bucket.parameters}
        yield from _agree(self.replicas, totals, tag)
        for total in (total for p, total in totals.items() if p in self.shared):
            yield from ring(self.replicas, total.words().reshape(-1), tag=tag)
        alone = {p: total for p, total in totals.items() if p not in self.shared}
        grads = [p.settled_grad().reshape(-1) for p in alone]
        # Each replica sums, and rounds, a part of every total; what then goes round is floats.
        if size > 1 and alone:
            words = [row for total in alone.values() for row in total.words()]
            yield from reduce_rows(self.replicas, words, [rows_of(row, size, rank) for row in words], tag, add=False)
        for total, grad in zip(alone.values(), grads, strict=True):
            mine = slice(*split(grad.size, size)[rank])
            _round(total, total.sum[:, mine], grad[mine])
        if size > 1 and alone:
            yield from gather_rows(self.replicas, grads, tag)

    def tie(self, action: Action) -> None:
        """TIE: sum the totals of the stage's shared parameters over the stages, and round them back."""
        for parameter, group in self.tied.joins[action.stage]:
            total = self.totals[parameter]
            finish(_agree(group, {parameter: total}, tag=0))
            group.allreduce(total.words())
            _round(total, total.sum, parameter.settled_grad().reshape(-1))

    def _fold(self, weight: Weight) -> None:
        assert isinstance(weight, Parameter)
        total = self.totals[weight]
        fold(weight.grad, total.sum, total.peak)
        total.addends += 1
        weight.clear_grad()


def exact_sums(comm: Communicator, numbers: Iterable[Iterable[float]]) -> list[float]:
    """The sum of each of some lists of numbers over all ranks, correctly rounded; NaN if one of its numbers is not finite."""
    words = np.stack([to_exact(found) for found in numbers])
    comm.allreduce(words)
    return [from_exact(found) for found in words]


def _nothing_for(parameter: Parameter) -> _Total:
    peak = empty_beside(parameter.data, ())
    peak.fill(0)
    return _Total(sum=exact_zeros(parameter.data), peak=peak)


def _agree(comm: Communicator, totals: Mapping[Parameter, _Total], tag: int) -> Collective:
    """Bring peaks and counts up to those of all ranks; `ValueError`, on each of them, where an exact sum is out of reach."""
    peaks = to_host(namespace(next(iter(totals)).data).stack([total.peak for total in totals.values()]))
    marks = np.array([*peaks.tolist(), *(total.addends for total in totals.values())], np.float64)
    yield from ring(comm, marks, Reduction.MAX, tag)
    for (parameter, total), peak, addends in zip(totals.items(), *marks.reshape(2, -1).tolist(), strict=True):
        total.peak[...], total.addends = peak, int(addends) * comm.size
        if LIMIT <= peak < np.inf:
            raise ValueError(
                f"parameter {parameter.name} has a gradient of {peak:.3g} from one microbatch, and reproducible = true sums "
                f"what is below {LIMIT:.3g}; scale the loss or the data down, or set reproducible = false"
            )
        if total.addends > MAX_ADDENDS:
            raise ValueError(
                f"parameter {parameter.name} has {total.addends} contributions to its gradient in a step, and reproducible = "
                f"true sums up to {MAX_ADDENDS}; use fewer, larger microbatches, or set reproducible = false"
            )


def _round(total: _Total, part: Array, out: Array) -> None:
    """Write `part` of the total's sum into `out`, NaN if something was not finite; then nothing has come in."""
    restore(part, out)
    if not np.isfinite(float(total.peak)):
        out.fill(np.nan)
    total.sum.fill(0)
    total.peak.fill(0)
    total.addends = 0
