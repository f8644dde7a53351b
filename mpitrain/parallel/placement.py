"""`Placement`: which layers make which stage, and by what they were weighed: parameters, measured time, or a person's hand.

Invariant: pure, and every layer is in exactly one stage; there are as many stages as the schedule has, and as many layers as
the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from mpitrain.nn import Model
from mpitrain.parallel.partition import layer_costs, partition
from mpitrain.parallel.profile import LayerProfile
from mpitrain.program import Schedule, owners, peak_activations

#: How a person may ask for stages: "parameters", "auto" (by measured time), or the number of layers of each stage.
Stages = str | Sequence[int]
WAYS = ("parameters", "auto")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Stages as runs of layers, (start, stop) each, with the cost of each layer where most replicas share the samples."""

    ranges: list[tuple[int, int]]
    costs: list[float]
    #: The number of replicas of each stage.
    widths: Sequence[int]
    #: What a cost is, for a person: "parameters" or "ms".
    unit: str
    by: str

    @property
    def by_stage(self) -> list[float]:
        """The cost of each stage on a rank: a narrower one has more of the samples there."""
        widest = max(self.widths)
        return [
            sum(self.costs[start:stop]) * widest / width for (start, stop), width in zip(self.ranges, self.widths, strict=True)
        ]

    def __str__(self) -> str:
        layers = ", ".join(f"{start}-{stop - 1}" if stop - start > 1 else str(start) for start, stop in self.ranges)
        slowest = max(self.by_stage)
        share = slowest * len(self.ranges) / sum(self.by_stage) if slowest else 1.0
        amount = f"{slowest:,.0f}" if self.unit == "parameters" else f"{slowest:,.3g}"
        return (
            f"{len(self.ranges)} stages by {self.by}: layers {layers}; the slowest, stage {self.by_stage.index(slowest)}, "
            f"has {amount} {self.unit}, {share:.2f} times the mean"
        )


def check_stages(stages: Stages) -> None:
    """`ValueError` if `stages`, as a person wrote it, cannot be meant."""
    by_hand = isinstance(stages, (list, tuple)) and all(isinstance(count, int) and count > 0 for count in stages)
    if stages not in WAYS and not by_hand:
        raise ValueError(
            f"stages = {stages!r} is not known; expected {', '.join(WAYS)}, or a list of the number of layers of each stage, "
            "at least 1 each"
        )


def place_by_parameters(model: Model, widths: Sequence[int]) -> Placement:
    """A stage for each of `widths`, the number of its replicas; the largest, for its width, as small as can be."""
    ranges = partition(layer_costs(model), len(widths), widths=widths)
    return Placement(ranges=ranges, costs=_sizes(model), widths=widths, unit="parameters", by="parameters")


def place_by_hand(model: Model, layers: Sequence[int], widths: Sequence[int]) -> Placement:
    """Stages of so many `layers` each.  `ValueError` if they are not all the layers of the model, in as many stages."""
    stages = len(widths)
    if len(layers) != stages or sum(layers) != len(model.layers):
        raise ValueError(
            f"stages = {list(layers)} makes {len(layers)} stages of {sum(layers)} layers in all; expected {stages} stages, one "
            f"number for each stage of the schedule, and {len(model.layers)} layers, all that the model has"
        )
    ranges = list(pairwise(accumulate(layers, initial=0)))
    return Placement(ranges=ranges, costs=_sizes(model), widths=widths, unit="parameters", by="hand")


def place_by_time(
    profile: Sequence[LayerProfile],
    schedule: Schedule,
    kept: Sequence[Sequence[float]],
    limit: float,
    widths: Sequence[int],
) -> Placement:
    """The slowest stage of `schedule` as fast as can be, where no rank holds more than `limit` bytes.

    `profile` is of a microbatch of the widest stage; `widths` has the number of replicas of each.  `kept` are, for each stage,
    the bytes that each layer would take there beside what the microbatches under way keep.  A rank's stages share its limit
    evenly.  `ValueError` if there is no such placement.
    """
    owner = owners(schedule)
    ranks = [owner[stage] for stage in sorted(owner)]
    held = [peak_activations([a for a in schedule[rank] if a.stage == stage]) for stage, rank in enumerate(ranks)]
    # A stage counts as often as its rank has stages, and a narrower one has more of each microbatch on a rank.
    widest = max(widths)
    memory = [
        [ranks.count(rank) * (own + count * layer.saved * widest / width) for own, layer in zip(fixed, profile, strict=True)]
        for rank, fixed, count, width in zip(ranks, kept, held, widths, strict=True)
    ]
    costs = [layer.seconds * 1e3 for layer in profile]
    ranges = partition(costs, len(ranks), memory, limit, widths)
    return Placement(ranges=ranges, costs=costs, widths=widths, unit="ms a microbatch", by="measured time")


def _sizes(model: Model) -> list[float]:
    return [max(0.0, cost - 1.0) for cost in layer_costs(model)]
