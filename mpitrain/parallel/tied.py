"""Tied weights across stages: the action TIE, the sum of a shared parameter's gradients over the stages that hold a copy.

Invariant: the copies start with the same bits (a parameter's values follow from its name) and take the same update (the sum),
so they stay equal and no weight is ever sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpitrain.comm.communicator import Communicator
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
    """TIE for the stages of a rank of a pipeline."""

    def __init__(
        self, comm: Communicator, shared: Mapping[str, tuple[int, ...]], stages: Mapping[int, Sequence[Parameter]]
    ) -> None:
        """`shared` as `holders` gives it, the same on every rank of `comm`; `stages` maps this rank's stages to their
        parameters.

        Collective over `comm`: one group is made for each shared parameter.
        """
        self.joins: dict[int, list[tuple[Parameter, Communicator]]] = {stage: [] for stage in stages}
        mine = {p.name: p for parameters in stages.values() for p in parameters}
        for name, ranks in sorted(shared.items()):
            group = comm.group(ranks if comm.rank in ranks else [comm.rank])
            if comm.rank in ranks:
                # All in the first stage's TIE: stage by stage, ranks that share two weights could come to them in opposite
                # orders, each waiting for the other.
                self.joins[min(stages)].append((mine[name], group))

    def tie(self, action: Action) -> None:
        """TIE: sum the gradients of the rank's shared parameters, in its first stage's action."""
        for parameter, group in self.joins[action.stage]:
            group.allreduce(parameter.settled_grad())
