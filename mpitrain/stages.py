"""`choose_stages`: the stages and the order that a person asked for: as named, by hand, or by what a profile at start-up finds.

Invariant: all ranks choose the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from mpitrain.arrays import Arrays
from mpitrain.comm import Place
from mpitrain.comm.probe import measure_message
from mpitrain.data import Dataset
from mpitrain.nn import Model
from mpitrain.optim import Optimizer
from mpitrain.parallel import (
    LayerProfile,
    Order,
    Placement,
    Stages,
    kept_bytes,
    no_time,
    place_by_hand,
    place_by_parameters,
    place_by_time,
    profile_layers,
    search,
)
from mpitrain.program import Schedule, ScheduleFunction, Search, owners


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What was chosen."""

    placement: Placement
    #: What the ranks compute, stage by stage of the placement.
    schedule: Schedule
    #: What there is to say of an order that was searched for.
    order: Order | None


def choose_stages(
    stages: Stages,
    model: Model,
    schedule: ScheduleFunction,
    place: Place,
    data: Dataset,
    microbatches: int,
    rows: int,
    arrays: Arrays,
    dtype: np.dtype,
    *,
    optimizer: Optimizer,
    zero: int,
    memory_gib: float | None,
) -> Chosen:
    """Stages and order of `microbatches` of `rows` samples each; collective with stages = "auto" or a search for the order.

    `ValueError` where the model cannot be cut so, or memory does not suffice.
    """
    base = schedule(place.layout.pp, microbatches)
    widths = [place.layout.widths[pp] for _, pp in sorted(owners(base).items())]
    searches, limit = isinstance(schedule, Search), None if memory_gib is None else memory_gib * 2**30
    profile: list[LayerProfile] = []
    if stages == "auto" or searches:
        inputs, targets = data.batch(np.arange(rows, dtype=np.int64) % len(data))
        profile = profile_layers(place.comm, model, inputs, targets, arrays, dtype)
    kept = [kept_bytes(model, dtype.itemsize, len(optimizer.slots), width, zero) for width in widths]
    if stages == "auto":
        placement = place_by_time(profile, base, kept, inf if limit is None else limit, widths)
    elif isinstance(stages, str):
        placement = place_by_parameters(model, widths)
    else:
        placement = place_by_hand(model, stages, widths)
    if not searches:
        return Chosen(placement=placement, schedule=base, order=None)
    # Ranks of neighbouring stages stand so far apart in the job.
    message = measure_message(place.comm, place.layout.widest) if place.comm.timed and place.layout.pp > 1 else no_time
    order = search(base, placement.ranges, profile, kept, limit, widths, message)
    return Chosen(placement=placement, schedule=order.schedule, order=order)
