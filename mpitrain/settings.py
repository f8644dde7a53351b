"""`Settings`: how a job trains.

Invariant: it is the same value on every rank, and settings that contradict each other cannot be made; a plan and the job itself
refuse the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from mpitrain.arrays import float_dtype
from mpitrain.bounds import Count, Known, Limit, Positive, Within, check_fields
from mpitrain.comm import Layout, progress_named
from mpitrain.comm.allreduce import allreduce_named
from mpitrain.data import check_batch
from mpitrain.nn import Model, Parameter, Statistic
from mpitrain.optim import Optimizer
from mpitrain.parallel import Compressor, Kept, Stages, check_stages, kept_bytes
from mpitrain.program import ScheduleFunction, Search


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a job trains: the same on every rank."""

    schedule: ScheduleFunction
    #: Microbatches that each pipeline runs in a step.
    microbatches: Count
    #: Samples in a step, over all replicas and microbatches.
    batch: Count
    seed: int = 0
    dtype: Annotated[str, Known(float_dtype)] = "float32"
    #: Largest norm of the mean gradient, or `None` for no clipping.
    clip: Limit | None = None
    #: Largest magnitude of an element of the mean gradient, after that; `None` for any.
    clip_value: Limit | None = None
    #: Whether gradients are summed over the replicas while backward still runs.
    overlap: bool = True
    #: Who moves those sums on meanwhile: a `"thread"`, the `"points"` between two ops, or `"auto"` by what cores are free.
    progress: Annotated[str, Known(progress_named)] = "auto"
    #: How gradients are summed: an algorithm of `comm.allreduce`, or `"auto"` for the fastest by measurement.
    allreduce: Annotated[str, Known(allreduce_named)] = "auto"
    #: Bytes of gradients in one message, in MiB; `None` for what follows from the same measurement.
    bucket_mib: Positive | None = None
    #: Whether batch norm's moments are the replicas' joint ones.
    sync_batch_norm: bool = False
    #: What the replicas share out (ZeRO): 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too.
    zero: Annotated[int, Within(least=0, most=3)] = 0
    #: Which layers make which stage: "parameters", "auto" (by measured time), or the number of layers of each.
    stages: Annotated[Stages, Known(check_stages)] = "parameters"
    #: With "auto" or a search for the schedule: most GiB that a rank may hold.
    memory_gib: Positive | None = None
    #: How gradients are summed with fewer bytes, if they are.
    compression: Compressor | None = None
    #: Whether every layout of the same microbatches gives the same bits.
    reproducible: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.memory_gib is not None and self.stages != "auto" and not isinstance(self.schedule, Search):
            raise ValueError(
                f"memory_gib = {self.memory_gib:g} limits stages = auto and schedule = automatic, and stages = {self.stages} "
                "with another schedule; leave it out, or ask for one of these"
            )
        clashing = {"sync_batch_norm": self.sync_batch_norm, "compression": self.compression}
        found = [name for name, value in clashing.items() if self.reproducible and value]
        if found:
            raise ValueError(
                f"reproducible = true and {found[0]} do not go together: what {found[0]} computes depends on the number of "
                "replicas; leave one of them out"
            )
        if self.zero and self.compression:
            raise ValueError(
                f"zero = {self.zero} and a compression each say how gradients are summed; expected one of them: leave one out"
            )

    @property
    def memory_bytes(self) -> float | None:
        """`memory_gib` in bytes."""
        return None if self.memory_gib is None else self.memory_gib * 2**30

    def check(self, model: Model, layout: Layout, optimizer: Optimizer) -> None:
        """`ValueError` if they do not go together with these."""
        optimizer.check(p for p in model.parameters() if not isinstance(p, Statistic))
        check_batch(self.batch, layout.widest, self.microbatches)
        if self.reproducible and not layout.even:
            raise ValueError(
                f"reproducible = true and the layout {layout} do not go together: places of another width compute with "
                "parts of another size; give all the same width, or set reproducible = false"
            )
        observed = next((p for p in model.parameters() if isinstance(p, Statistic)), None)
        if observed is not None and not layout.even and not self.sync_batch_norm:
            raise ValueError(
                f"the model observes {observed.name} batch by batch, and places of the layout {layout} see parts of another "
                "size; expected the same width for all, or sync_batch_norm = true"
            )
        if self.zero and optimizer.needs_whole_weights:
            raise ValueError(
                f"{type(optimizer).__name__} needs whole weights and zero = {self.zero} shares them out by rows; "
                "expected zero = 0, or an optimizer that treats each element alone (SGD, Adam, AdamW)"
            )

    def kept_bytes(self, parameters: Sequence[Parameter], optimizer: Optimizer, replicas: int) -> Kept:
        """What each of `replicas` keeps of `parameters` for good."""
        return kept_bytes(
            parameters,
            float_dtype(self.dtype),
            slots=len(optimizer.slots),
            replicas=replicas,
            zero=self.zero,
            compression=self.compression,
            reproducible=self.reproducible,
        )
