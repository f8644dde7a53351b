"""Pipeline parallelism: the stages of a rank, and which samples it shares with the replicas of the stages beside them.

Invariant: a parameter of a rank belongs to one of its stages, however many compute with it; what two ranks share of a
microbatch follows from the batch's size and the layout, so both know it without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mpitrain.comm import Place
from mpitrain.nn import Model, Parameter, Stage
from mpitrain.program import Piece

#: How a batch is dealt: for a number of replicas and one of them, its microbatches (start, stop) in the batch.
Deal = Callable[[int, int], Sequence[tuple[int, int]]]


def cut_for(model: Model, ranges: Sequence[tuple[int, int]], owner: Mapping[int, int], rank: int) -> dict[int, Stage]:
    """The stages of `rank`, by number: copies of the model's layers that share nothing with it."""
    mine = sorted(stage for stage, found in owner.items() if found == rank)
    return dict(zip(mine, model.cut([ranges[stage] for stage in mine]), strict=True))


def parameters_by_stage(stages: Mapping[int, Stage]) -> dict[int, list[Parameter]]:
    """The parameters of each stage of a rank; one that two of them share belongs to the first."""
    seen: set[int] = set()
    found = {}
    for stage, module in stages.items():
        found[stage] = [p for p in module.parameters() if id(p) not in seen]
        seen.update(map(id, found[stage]))
    return found


def frozen_stages(model: Model, ranges: Sequence[tuple[int, int]]) -> set[int]:
    """The stages, whose layers are `ranges`, that have nothing to train."""
    trains = [any(p.trained for p in layer.parameters()) for layer in model.layers]
    return {stage for stage, (start, stop) in enumerate(ranges) if not any(trains[start:stop])}


class Routes:
    """The ways of a batch from the rank at `place` to the stages beside its own; a `Route`."""

    def __init__(self, place: Place, owner: Mapping[int, int], deal: Deal) -> None:
        self._owner, self._layout = owner, place.layout
        self._width, self._replica = place.dp.size, place.dp.rank
        #: This rank's microbatches.
        self.runs = list(deal(self._width, self._replica))
        self._deal = deal
        self._known: dict[int, list[list[Piece]]] = {}

    def __call__(self, stage: int, microbatch: int) -> list[Piece]:
        """The pieces that this rank shares with the replicas of a neighbouring `stage`."""
        pp = self._owner[stage]
        if pp not in self._known:
            self._known[pp] = self._pieces(pp)
        return self._known[pp][microbatch]

    def _pieces(self, pp: int) -> list[list[Piece]]:
        """For each microbatch, the pieces shared with the replicas at place `pp` of the pipeline."""
        width = self._layout.widths[pp]
        # As many replicas have the same runs each, and a thousand need not be looked through.
        others = [self._replica] if width == self._width else range(width)
        theirs = [(self._layout.rank(pp=pp, dp=dp), self._deal(width, dp)) for dp in others]
        return [
            [
                Piece(peer, max(start, runs[i][0]) - start, min(stop, runs[i][1]) - start)
                for peer, runs in theirs
                if max(start, runs[i][0]) < min(stop, runs[i][1])
            ]
            for i, (start, stop) in enumerate(self.runs)
        ]
