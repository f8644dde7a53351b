"""`partition`: which layers make which stage.

Invariant: every layer is in exactly one stage, stages are runs of neighbouring layers, none is empty, and there are as many as
were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import inf

import numpy as np

from mpitrain.nn import Model


def layer_work(model: Model) -> list[tuple[float, float, float]]:
    """What each layer is taken to cost forward, for the gradient of its input and for those of its weights.

    That is one and its parameters: those that are frozen have no gradient, and layers below the lowest trained one no backward.
    """
    work, lowest = [], model.lowest
    for number, layer in enumerate(model.layers):
        parameters = layer.parameters()
        every, moving = (1.0 + sum(p.size for p in found) for found in (parameters, [p for p in parameters if p.moves]))
        work.append((every, every, moving) if number >= lowest else (every, 0.0, 0.0))
    return work


def layer_costs(model: Model) -> list[float]:
    """What each layer is taken to cost: its parameters, of frozen ones the part that is left to do, plus one: none is free."""
    return [sum(work) / 3 for work in layer_work(model)]


def partition(
    costs: Sequence[float],
    stages: int,
    memory: Sequence[float] | Sequence[Sequence[float]] | None = None,
    limit: float = inf,
    widths: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """Cut layers of the given `costs` into `stages` runs, (start, stop) each, such that the costliest run is as cheap as can
    be, and the `memory` of the layers of a run, in bytes, is at most `limit`.

    `memory` has one entry a layer, or one such row for each stage where that depends on the stage, as with the activations
    that 1F1B holds.  `widths` are the ranks that share the work of each stage, by default one.  Exact, by dynamic programming
    over the number of runs.  `ValueError` if there are more stages than layers, or if no cut keeps to `limit`.
    """
    layers = len(costs)
    if not 1 <= stages <= layers:
        raise ValueError(f"{stages} stages were asked for and the model has {layers} layers; expected 1 to {layers} stages")
    cost = list(accumulate(costs, initial=0.0))
    rows = np.broadcast_to(np.asarray(0.0 if memory is None else memory, float), (stages, layers))
    shared_by = widths or [1] * stages
    held = [list(accumulate(row, initial=0.0)) for row in rows.tolist()]

    def bytes_of(stage: int, start: int, stop: int) -> float:
        return held[stage][stop] - held[stage][start]

    def cost_of(stage: int, start: int, stop: int) -> float:
        return (cost[stop] - cost[start]) / shared_by[stage] if bytes_of(stage, start, stop) <= limit else inf

    slowest, cuts = _smallest_maximum(cost_of, layers, stages)
    if slowest == inf:
        least, _ = _smallest_maximum(bytes_of, layers, stages)
        raise ValueError(
            f"no cut of {layers} layers into {stages} stages keeps within {limit:,.0f} bytes a rank, the best needs "
            f"{least:,.0f}; use more stages, fewer or smaller microbatches, or recompute activations"
        )
    return list(zip([0, *cuts[:-1]], cuts, strict=True))


def _smallest_maximum(measure: Callable[[int, int, int], float], layers: int, stages: int) -> tuple[float, list[int]]:
    """The cut, by the end of each run, whose largest `measure` (of run, start, stop) is smallest, and that measure."""
    # best[stop] = (the largest run's measure, the cuts) for layers 0 .. stop in the number of runs reached so far
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for run in range(stages):
        best = {
            stop: min(
                (max(best[start][0], measure(run, start, stop)), [*best[start][1], stop]) for start in best if start < stop
            )
            for stop in range(run + 1, layers - (stages - run) + 2)
        }
    return best[layers]
