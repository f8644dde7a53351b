"""`choose_stages`: the stages and the order that a person asked for: as named, by hand, or by what a profile at start-up finds.

Invariant: all ranks choose the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from mpitrain.arrays import Arrays, float_dtype
from mpitrain.comm import Place
from mpitrain.comm.probe import measure_message
from mpitrain.data import Dataset, read
from mpitrain.nn import Model, Module, Sequential
from mpitrain.optim import Optimizer
from mpitrain.parallel import (
    LayerProfile,
    Order,
    Placement,
    no_time,
    place_by_hand,
    place_by_parameters,
    place_by_time,
    profile_layers,
    search,
    stage_costs,
)
from mpitrain.program import Schedule, Search, owners
from mpitrain.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What was chosen."""

    placement: Placement
    #: What the ranks compute, stage by stage of the placement.
    schedule: Schedule
    #: What there is to say of an order that was searched for.
    order: Order | None


def choose_stages(
    settings: Settings, model: Model, optimizer: Optimizer, place: Place, data: Dataset, arrays: Arrays
) -> Chosen:
    """What `settings` ask for; collective with stages = "auto" or a search for the order.

    `ValueError` where the model cannot be cut so, or memory does not suffice.
    """
    stages, schedule = settings.stages, settings.schedule
    base = schedule(place.layout.pp, settings.microbatches)
    widths = [place.layout.widths[pp] for _, pp in sorted(owners(base).items())]
    searches, limit = isinstance(schedule, Search), settings.memory_bytes
    profile: list[LayerProfile] = []
    if stages == "auto" or searches:
        rows = -(-settings.batch // (place.layout.widest * settings.microbatches))
        inputs, targets = read(data, np.arange(rows, dtype=np.int64) % len(data))
        profile = profile_layers(place.comm, model, inputs, targets, arrays, float_dtype(settings.dtype))

    def kept(part: Module, replicas: int) -> float:
        return settings.kept_bytes(part.parameters(), optimizer, replicas).total

    if stages == "auto":
        fixed = [[kept(layer, width) for layer in model.layers] for width in widths]
        placement = place_by_time(profile, base, fixed, inf if limit is None else limit, widths)
    elif isinstance(stages, str):
        placement = place_by_parameters(model, widths)
    else:
        placement = place_by_hand(model, stages, widths)
    if not searches:
        return Chosen(placement=placement, schedule=base, order=None)
    # Ranks of neighbouring stages stand so far apart in the job.
    message = measure_message(place.comm, place.layout.widest) if place.comm.timed and place.layout.pp > 1 else no_time
    parts = [Sequential(model.layers[start:stop]) for start, stop in placement.ranges]
    costs = stage_costs(profile, placement.ranges, widths, message)
    order = search(base, costs, list(map(kept, parts, widths)), limit)
    return Chosen(placement=placement, schedule=order.schedule, order=order)
