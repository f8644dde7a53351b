"""`choose_summing`: how a rank's gradients become the job's: plainly, shared out (ZeRO), compressed, or exactly.

Invariant: what a way to sum needs of ARM, REDUCE, TIE and TALLY is one value, made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from mpitrain.comm import Place
from mpitrain.comm.allreduce import Allreduce, Constants
from mpitrain.holding import Holding
from mpitrain.parallel import (
    EXACT_SUMS,
    Compression,
    ExactGradients,
    Exchange,
    MakeBucket,
    TiedWeights,
    kept_bucket,
    passing_bucket,
    sum_by,
    sum_over,
)
from mpitrain.program import PLAIN_SUMS, Action, Sums
from mpitrain.settings import Settings

#: Bytes of gradients in one message, where none is set and none was measured.
BUCKET_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Summing:
    """How gradients are summed."""

    #: The sum of a bucket over the replicas; `None` where there is one.
    exchange: Exchange | None
    make_bucket: MakeBucket
    bucket_bytes: int
    #: The sum over the places of the pipeline that share weights.
    tie: Callable[[Action], None]
    #: The sums of losses and norms.
    sums: Sums
    #: What counts the bytes sent, and remembers what was not, if anything does.
    compression: Compression | None = None
    #: In one line, for buckets of so many bytes each.
    how: Callable[[Sequence[int]], str]
    #: What plain sums follow their choice of an algorithm from; `None` where there is none.
    constants: Constants | None = None


def choose_summing(place: Place, settings: Settings, holding: Holding, constants: Constants | None = None) -> Summing:
    """The one that `settings` ask for; its algorithm follows from `constants`, by default measured ones.  Collective."""
    replicas, zero = place.dp, holding.zero
    allreduce = Allreduce(replicas, settings.allreduce, overlapped=settings.overlap, constants=constants)
    bucket_bytes = int(2**20 * settings.bucket_mib) if settings.bucket_mib else allreduce.bucket_bytes or BUCKET_BYTES
    tied = TiedWeights(place, holding.tied, holding.kept)
    summing = Summing(
        exchange=zero.exchange if zero else None,
        make_bucket=passing_bucket if zero and zero.level > 1 else kept_bucket,
        bucket_bytes=bucket_bytes,
        tie=tied.tie,
        sums=PLAIN_SUMS,
        how=lambda sizes: f"sums over {replicas.size} ranks: in buckets of {bucket_bytes / 2**20:.3g} MiB",
    )
    if settings.reproducible:
        kept = {stage: [p for p in found if p.moves] for stage, found in holding.kept.items()}
        exact = ExactGradients(replicas, tied, holding.moving, kept)
        make_bucket = passing_bucket if zero else kept_bucket
        return replace(summing, exchange=exact.exchange, make_bucket=make_bucket, tie=exact.tie, sums=EXACT_SUMS)
    if settings.compression:
        every, lossless = chain.from_iterable(holding.moving.values()), sum_over(replicas)
        compression = Compression(settings.compression, place, every, shared=holding.shared, lossless=lossless)
        return replace(summing, exchange=compression.exchange, compression=compression)
    if zero or replicas.size == 1:
        return summing
    return replace(
        summing,
        exchange=sum_by(allreduce),
        make_bucket=partial(kept_bucket, zeros=allreduce.zeros),
        how=allreduce.explain,
        constants=allreduce.constants if settings.allreduce == "auto" else None,
    )
