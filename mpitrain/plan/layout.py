"""`plan`: what a job will look like, without ranks: its stages, and the memory of each rank.

Invariant: stages, parameters, schedule and peak are computed by the code that the job itself runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from mpitrain.arrays import float_dtype
from mpitrain.comm import Layout
from mpitrain.data import Inputs
from mpitrain.nn import Model, Sequential
from mpitrain.optim import Optimizer
from mpitrain.parallel import (
    Kept,
    LayerProfile,
    cut_for,
    frozen_stages,
    layer_work,
    parameters_by_stage,
    place_by_hand,
    place_by_parameters,
    search,
    stage_costs,
)
from mpitrain.plan.activations import saved_bytes
from mpitrain.program import Search, add_transfers, leave_out, owners, simulate
from mpitrain.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class RankPlan:
    """What one rank of each pipeline holds; bytes."""

    pp: int
    ranks: tuple[int, ...]
    layers: tuple[tuple[int, int], ...]
    parameters: int
    kept: Kept
    #: The most microbatches of a stage that wait for their backward at once, and the most bytes that they keep.
    held: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.kept.total + self.activations


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
    #: What a run finds only at its start, and by what it is decided here instead.
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The plan as a table to print."""
        head = f"{self.layout}, {self.layout.size} ranks; {self.parameters:,} parameters; "
        head += f"{self.microbatches} microbatches of {self.microbatch} samples a pipeline; bubble {self.bubble:.0%} of a step"
        columns = [
            "pp",
            "ranks",
            "layers",
            "parameters",
            "weights",
            "gradients",
            "optimizer",
            "exchange",
            "activations",
            "total",
        ]
        rows = [[str(p.pp), _spans(p.ranks), _layers(p.layers), f"{p.parameters:,}",
                 *map(_mib, astuple(p.kept)), f"{_mib(p.activations)} ({p.held} held)",
                 _mib(p.total)] for p in self.ranks]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [columns, *rows]]
        return [head, *table, *self.notes]


def plan(model: Model, optimizer: Optimizer, layout: Layout, settings: Settings, sample: Inputs) -> Plan:
    """Plan a job; `sample` is a model input with a sample dim of 1.  `ValueError` where the parts do not fit together.

    What a run measures at its start is not known here: stages = "auto" and a search for the order go by parameters instead, and
    the plan says so.
    """
    settings.check(model, layout, optimizer)
    model = model.training(optimizer.trains)
    schedule, stages = settings.schedule, settings.stages
    actions, notes = schedule(layout.pp, settings.microbatches), []
    owner = owners(actions)
    widths = [layout.widths[pp] for _, pp in sorted(owner.items())]
    ranges = (place_by_parameters(model, widths) if isinstance(stages, str) else place_by_hand(model, stages, widths)).ranges
    if stages == "auto":
        notes.append("stages: a run chooses them at its start by measured time; here they are by parameters")
    width, rows = float_dtype(settings.dtype).itemsize, -(-settings.batch // settings.microbatches)
    saved = [size * width // 4 for size in saved_bytes(model, sample)]
    profile = [
        LayerProfile(forward=forward, input_grad=inputs, weight_grad=weights, saved=size * -(-rows // layout.widest))
        for (forward, inputs, weights), size in zip(layer_work(model), saved, strict=True)
    ]
    by_stage = stage_costs(profile, ranges, widths)
    if isinstance(schedule, Search):
        parts = [Sequential(model.layers[start:stop]).parameters() for start, stop in ranges]
        fixed = [settings.kept_bytes(part, optimizer, replicas).total for part, replicas in zip(parts, widths, strict=True)]
        actions = search(actions, by_stage, fixed, settings.memory_bytes).schedule
        notes.append("order: a run searches for it at its start by measured times; here by parameters, B twice F")
    timeline = simulate(add_transfers(leave_out(actions, frozen_stages(model, ranges))), by_stage)
    ranks = []
    for pp, replicas in enumerate(layout.widths):
        mine = [ranges[stage] for stage in sorted(owner) if owner[stage] == pp]
        held = [p for found in parameters_by_stage(cut_for(model, ranges, owner, pp)).values() for p in found]
        ranks.append(
            RankPlan(
                pp=pp,
                ranks=layout.replicas(pp),
                layers=tuple(mine),
                parameters=sum(p.size for p in held),
                kept=settings.kept_bytes(held, optimizer, replicas),
                held=timeline.peak_activations[pp],
                activations=round(max(nbytes for _, nbytes in timeline.memory[pp])),
            )
        )
    bubble = sum(timeline.bubble) / (timeline.makespan * layout.pp)
    total = sum(p.size for p in model.parameters())
    return Plan(
        layout=layout,
        parameters=total,
        ranks=tuple(ranks),
        bubble=bubble,
        microbatches=settings.microbatches,
        microbatch=-(-rows // layout.widest),
        notes=tuple(notes),
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _spans(ranks: Sequence[int]) -> str:
    return f"{ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else str(ranks[0])


def _layers(layers: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{start}-{stop - 1}" for start, stop in layers)
