"""`choose_stages`: the stages that a person asked for: by parameters, by hand, or by what a profile at start-up finds.

Invariant: all ranks choose the same.
"""

from __future__ import annotations

from math import inf

import numpy as np

from mpitrain.arrays import Arrays
from mpitrain.comm import Place
from mpitrain.data import Dataset
from mpitrain.nn import Model
from mpitrain.optim import Optimizer
from mpitrain.parallel import Placement, Stages, place_by_hand, place_by_parameters, place_by_time, profile_layers
from mpitrain.program import Schedule, owners


def choose_stages(
    stages: Stages,
    model: Model,
    schedule: Schedule,
    place: Place,
    data: Dataset,
    rows: int,
    arrays: Arrays,
    dtype: np.dtype,
    *,
    optimizer: Optimizer,
    zero: int,
    memory_gib: float | None,
) -> Placement:
    """The stages of `schedule`, for microbatches of `rows` samples; collective with stages = "auto".

    `ValueError` where the model cannot be cut so.
    """
    widths = [place.layout.widths[pp] for _, pp in sorted(owners(schedule).items())]
    if stages == "parameters":
        return place_by_parameters(model, widths)
    if not isinstance(stages, str):
        return place_by_hand(model, stages, widths)
    inputs, targets = data.batch(np.arange(rows, dtype=np.int64) % len(data))
    profile = profile_layers(place.comm, model, inputs, targets, arrays, dtype)

    def kept(replicas: int) -> list[float]:
        """What a replica keeps of each layer for good; what ZeRO shares out counts by its part."""
        copies = [1 / replicas if zero >= level else 1.0 for level in (3, 2, 1)]
        each = dtype.itemsize * (copies[0] + copies[1] + len(optimizer.slots) * copies[2])
        return [each * sum(p.size for p in layer.parameters()) for layer in model.layers]

    limit = inf if memory_gib is None else memory_gib * 2**30
    return place_by_time(profile, schedule, [kept(width) for width in widths], limit, widths)
