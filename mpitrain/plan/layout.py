"""`plan`: what a job will look like, without ranks: its stages, and the memory of each rank.

Invariant: stages, parameters, schedule and peak are computed by the code that the job itself runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import float_dtype
from mpitrain.comm import Layout
from mpitrain.nn import Model
from mpitrain.optim import Optimizer
from mpitrain.parallel import Stages, cut_for, layer_costs, parameters_by_stage, place_by_hand, place_by_parameters
from mpitrain.plan.activations import saved_bytes
from mpitrain.program import Costs, ScheduleFunction, add_transfers, owners, simulate


@dataclass(frozen=True, kw_only=True, slots=True)
class RankPlan:
    """What one rank of each pipeline holds; bytes."""

    pp: int
    ranks: tuple[int, ...]
    layers: tuple[tuple[int, int], ...]
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    #: Most microbatches that wait for their backward at once, and what they keep.
    held: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A job as it will be run."""

    layout: Layout
    parameters: int
    ranks: tuple[RankPlan, ...]
    #: The idle part of a step, with the layers' parameters for costs and B twice F.
    bubble: float
    microbatches: int
    microbatch: int

    def lines(self) -> list[str]:
        """The plan as a table to print."""
        head = f"{self.layout}, {self.layout.size} ranks; {self.parameters:,} parameters; "
        head += f"{self.microbatches} microbatches of {self.microbatch} samples a pipeline; bubble {self.bubble:.0%} of a step"
        columns = ["pp", "ranks", "layers", "parameters", "weights", "gradients", "optimizer", "activations", "total"]
        rows = [[str(p.pp), _spans(p.ranks), _layers(p.layers), f"{p.parameters:,}", _mib(p.weights), _mib(p.gradients),
                 _mib(p.optimizer), f"{_mib(p.activations)} ({p.held} held)", _mib(p.total)] for p in self.ranks]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [columns, *rows]]
        return [head, *table]


def plan(
    model: Model, optimizer: Optimizer, layout: Layout, schedule: ScheduleFunction, *,
    microbatches: int, batch: int, sample: np.ndarray, dtype: str = "float32", zero: int = 0,
    stages: Stages = "parameters",
) -> Plan:  # fmt: skip
    """Plan a job; `sample` is a model input with a sample dim of 1, `zero` the ZeRO level (see `mpitrain.parallel.zero`),
    `stages` which layers make which stage.  What "auto" will find at start-up is not known here: the plan goes by parameters.

    `ValueError` where the parts do not fit together.
    """
    actions = schedule(layout.pp, microbatches)
    owner = owners(actions)
    widths, costs = [layout.widths[pp] for _, pp in sorted(owner.items())], layer_costs(model)
    ranges = (place_by_parameters(model, widths) if isinstance(stages, str) else place_by_hand(model, stages, widths)).ranges
    by_stage = [sum(costs[start:stop]) / replicas for (start, stop), replicas in zip(ranges, widths, strict=True)]
    timeline = simulate(add_transfers(actions), Costs(forward=by_stage, input_grad=by_stage, weight_grad=by_stage))
    kept = saved_bytes(model, sample)
    width, rows = float_dtype(dtype).itemsize, -(-batch // microbatches)

    def shared(size: int, level: int, replicas: int) -> int:
        """What a replica holds of `size` bytes that are shared out from ZeRO's `level` on."""
        return size // replicas if zero >= level else size

    ranks = []
    for pp, replicas in enumerate(layout.widths):
        mine = [ranges[stage] for stage in sorted(owner) if owner[stage] == pp]
        held = [p for found in parameters_by_stage(cut_for(model, ranges, owner, pp)).values() for p in found]
        size = sum(p.size for p in held)
        activations = sum(sum(kept[start:stop]) for start, stop in mine) // len(mine) * width // 4
        ranks.append(
            RankPlan(
                pp=pp,
                ranks=layout.replicas(pp),
                layers=tuple(mine),
                parameters=size,
                weights=shared(size * width, 3, replicas),
                gradients=shared(size * width, 2, replicas),
                optimizer=shared(size * width * len(optimizer.slots), 1, replicas),
                held=timeline.peak_activations[pp],
                activations=activations * -(-rows // replicas) * timeline.peak_activations[pp],
            )
        )
    bubble = sum(timeline.bubble) / (timeline.makespan * layout.pp)
    total = sum(p.size for p in model.parameters())
    return Plan(
        layout=layout,
        parameters=total,
        ranks=tuple(ranks),
        bubble=bubble,
        microbatches=microbatches,
        microbatch=-(-rows // layout.widest),
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _spans(ranks: Sequence[int]) -> str:
    return f"{ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else str(ranks[0])


def _layers(layers: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{start}-{stop - 1}" for start, stop in layers)
