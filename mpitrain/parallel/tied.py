"""Tied weights across stages: the action TIE, the sum of a shared parameter's gradients over the stages that hold a copy.

Invariant: the copies start with the same bits (a parameter's values follow from its name) and take the same update (the sum),
so they stay equal and no weight is ever sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpitrain.arrays import namespace
from mpitrain.comm import Communicator, Place
from mpitrain.nn import Model, Parameter
from mpitrain.program.action import Action


def holders(model: Model, ranges: Sequence[tuple[int, int]], owner: Mapping[int, int]) -> dict[str, tuple[int, ...]]:
    """For each parameter that more than one rank of a pipeline holds, those ranks, the one with the first stage first.

    `ranges` gives each stage's layers, `owner` each stage's rank.
    """
    ranks: dict[str, dict[int, None]] = {}
    for stage, (start, stop) in enumerate(ranges):
        for layer in model.layers[start:stop]:
            for parameter in layer.parameters():
                ranks.setdefault(parameter.name, {})[owner[stage]] = None
    return {name: tuple(found) for name, found in ranks.items() if len(found) > 1}


class TiedWeights:
    """TIE for a rank of a pipeline."""

    def __init__(self, place: Place, shared: Mapping[str, tuple[int, ...]], stages: Mapping[int, Sequence[Parameter]]) -> None:
        """`shared` as `holders` gives it; `stages` maps this rank's stages to their parameters, or the shards of them that it
        keeps.

        Collective: one group is made for each shared parameter.
        """
        #: By name: stage by stage, ranks that share two weights could come to them in opposite orders, and wait for each other.
        self.joins: list[tuple[Parameter, Communicator]] = []
        #: Whether this rank's gradient of a whole parameter enters the sum: replicas have the same one, but for shards.
        self.counts = place.dp.rank == 0
        self.even = place.layout.even
        mine = {p.name: p for parameters in stages.values() for p in parameters}
        for name, holding in sorted(shared.items()):
            # Replica i of each place, who all keep the same rows; or, where places differ in width, everyone.
            lanes = place.layout.pipeline(place.comm.rank) if self.even else ()
            ranks = [lanes[pp] for pp in holding] if self.even else [r for pp in holding for r in place.layout.replicas(pp)]
            group = place.comm.group(ranks if place.pp_rank in holding else [place.comm.rank])
            if place.pp_rank in holding:
                self.joins.append((mine[name], group))

    def tie(self, action: Action) -> None:
        """TIE: sum the gradients of the rank's shared parameters."""
        for parameter, group in self.joins:
            grad = parameter.settled_grad()
            if self.even:
                group.allreduce(grad)
                continue
            box = tuple(slice(*along) for along in parameter.box)
            whole = namespace(grad).zeros(parameter.shape, grad.dtype)
            if self.counts or parameter.box_shape != parameter.shape:
                whole[box] = grad
            group.allreduce(whole)
            grad[...] = whole[box]
