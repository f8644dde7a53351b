"""`search`: the order that `schedule = "automatic"` runs, from what a profile says that the layers take and keep.

Invariant: pure, so ranks with the same profile run the same order; it is not slower, as simulated, than the base schedule or
any other fixed one with its stages that keeps to the limit, and no rank holds more than the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpitrain.parallel.profile import LayerProfile
from mpitrain.program import Costs, Schedule, add_transfers, automatic, owners, peak_activations, simulate, stages_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """An order that was found, with what it takes in simulation, in seconds, and what the base schedule takes."""

    schedule: Schedule
    seconds: float
    base_seconds: float
    #: The most microbatches of a stage that each rank holds at once.
    held: list[int]

    def __str__(self) -> str:
        return (
            f"order by search: {self.seconds * 1e3:.3g} ms a step in simulation, {self.base_seconds * 1e3:.3g} ms that of the "
            f"schedule whose stages it has; ranks hold up to {', '.join(map(str, self.held))} microbatches of a stage"
        )


def search(base: Schedule, costs: Costs, kept: Sequence[float], limit: float | None) -> Order:
    """Search for an order of the stages of `base`.

    `costs` are those of `stage_costs`; `kept` are, for each stage, the bytes that it takes on a rank beside activations.
    `limit` is the most bytes that a rank may hold, by default as many as the fullest rank of `base` does.  `ValueError` if a
    rank cannot hold a microbatch of each of its stages.
    """
    owner = [rank for _, rank in sorted(owners(base).items())]
    room = limits(base, costs, kept, limit)
    found = automatic(owner, _microbatches(base), costs=costs, limits=room)
    seconds, base_seconds = (simulate(add_transfers(schedule), costs).makespan for schedule in (found, base))
    if base_seconds < seconds and all(held <= most for held, most in zip(_held(base), room, strict=True)):
        found, seconds = base, base_seconds  # a person's own
    return Order(schedule=found, seconds=seconds, base_seconds=base_seconds, held=_held(found))


def no_time(nbytes: float) -> float:
    """Messages that take no time, for where none can be measured."""
    return 0.0


def stage_costs(
    profile: Sequence[LayerProfile],
    ranges: Sequence[tuple[int, int]],
    widths: Sequence[int],
    message: Callable[[float], float] = no_time,
) -> Costs:
    """What a microbatch takes on each stage and on the link to the one after it, and the bytes that the stage keeps of it.

    The stages are the layers `ranges`; `profile` is of a microbatch of the widest one, `widths` has the number of replicas of
    each.  `message` gives the seconds that a message of so many bytes takes.
    """
    # A narrower stage has more of each microbatch on a rank, and the narrower end of a link takes the longer.
    shares = [max(widths) / width for width in widths]
    stages = [(profile[start:stop], share) for (start, stop), share in zip(ranges, shares, strict=True)]
    ends = zip(ranges, map(max, shares, [*shares[1:], 0.0]), strict=True)
    return Costs(
        forward=[share * sum(layer.forward for layer in layers) for layers, share in stages],
        input_grad=[share * sum(layer.input_grad for layer in layers) for layers, share in stages],
        weight_grad=[share * sum(layer.weight_grad for layer in layers) for layers, share in stages],
        transfer=[message(share * profile[stop - 1].output) for (_, stop), share in ends],
        activation=[share * sum(layer.saved for layer in layers) for layers, share in stages],
    )


def limits(base: Schedule, costs: Costs, kept: Sequence[float], limit: float | None) -> list[int]:
    """For each rank, how many microbatches of a stage it may hold; its largest stage counts for each."""
    mine = [stages_of(actions) for actions in base]
    fixed = [sum(kept[stage] for stage in stages) for stages in mine]
    each = [max(costs.kept(stage) for stage in stages) for stages in mine]
    most = max(f + held * e for f, held, e in zip(fixed, _held(base), each, strict=True)) if limit is None else limit
    every = _microbatches(base) * len(kept)
    found = [min(every, int((most - f) / e + 1e-9)) if e else every for f, e in zip(fixed, each, strict=True)]
    for rank, (count, stages) in enumerate(zip(found, mine, strict=True)):
        if count < len(stages):
            raise ValueError(
                f"rank {rank} of the pipeline keeps {fixed[rank]:,.0f} bytes and {each[rank]:,.0f} for each microbatch of a "
                f"stage, of which it has to hold {len(stages)}; the limit is {most:,.0f} bytes. Use a larger limit, more "
                "stages, or smaller microbatches"
            )
    return found


def _held(schedule: Schedule) -> list[int]:
    return [peak_activations(actions) for actions in schedule]


def _microbatches(schedule: Schedule) -> int:
    return len({action.microbatch for actions in schedule for action in actions})
