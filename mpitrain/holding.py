"""`Holding`: what one rank holds of a model: its stages, their parameters or shards of them, and their optimizer state.

Invariant: over all ranks of a job, each row of each parameter is answered for by exactly one of them, so norms, checkpoints and
exports count nothing twice and miss nothing, whatever is replicated, tied or shared out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.comm import Communicator, Place
from mpitrain.kernels.table import kernels_for
from mpitrain.nn import Model, Parameter, Sequential
from mpitrain.optim import Optimizer, OptimizerState
from mpitrain.parallel import Zero, cut_for, holders, is_shared_out, parameters_by_stage, shard_of
from mpitrain.program import Reached


class Holding:
    """The part of `model` that belongs to the rank at `place`.

    `owner` maps each stage to its rank in the pipeline, `ranges` to its layers; `zero` is the ZeRO level, 0 to 3.  Collective.
    """

    def __init__(
        self,
        model: Model,
        place: Place,
        owner: Mapping[int, int],
        ranges: Sequence[tuple[int, int]],
        optimizer: Optimizer,
        *,
        zero: int,
        arrays: Arrays,
        dtype: np.dtype,
        seed: int,
    ) -> None:
        self.model, self.owner, self.widths = model, owner, place.layout.widths
        self.ranges = ranges
        #: For each parameter that several ranks of a pipeline hold, those ranks; and of these parameters the ones that move.
        self.shared = holders(model, self.ranges, owner)
        moving = {p.name for p in model.parameters() if p.moves}
        self.tied = {name: ranks for name, ranks in self.shared.items() if name in moving}
        self.stages = cut_for(model, self.ranges, owner, place.pp_rank)
        #: The parameters that each stage computes with.
        self.parameters = parameters_by_stage(self.stages)
        #: Those of them that are summed over the replicas: the ones that are not frozen.
        self.moving = {stage: [p for p in found if p.moves] for stage, found in self.parameters.items()}
        #: The ZeRO level; places with one replica have nothing to share out.
        self.level = zero
        self.zero = Zero(place.dp, zero, self.stages) if zero and place.dp.size > 1 else None
        self._materialize(arrays, dtype, seed)
        #: What is kept of each stage for good: its parameters, or this replica's shards of them.
        self.kept = {stage: [self._kept(p) for p in found] for stage, found in self.parameters.items()}
        kernels = kernels_for(arrays, dtype)
        self.states = {stage: OptimizerState(optimizer, found, kernels) for stage, found in self.kept.items()}
        kept = {p.name: p for found in self.kept.values() for p in found}
        #: What this rank answers for.
        self.owned = [kept[p.name] for p in self.owned_by(place.pp_rank, place.dp.rank)]

    @property
    def tied_ranks(self) -> set[int]:
        """The ranks of a pipeline that hold a parameter which another one holds, and moves, too."""
        return {rank for ranks in self.tied.values() for rank in ranks}

    @property
    def replicated(self) -> list[Parameter]:
        """The parameters that every replica holds whole."""
        every = [p for found in self.parameters.values() for p in found]
        return every if self.zero is None or self.zero.level < 3 else [p for p in every if not is_shared_out(p, 3)]

    def owned_by(self, pp: int, dp: int) -> list[Parameter]:
        """The descriptions of what the rank at (pp, dp) answers for, in the order of its `owned`.

        A parameter that several ranks of a pipeline hold is the first one's.  Replicas take turns, or have their shards.
        """
        ranges = [self.ranges[stage] for stage, owner in sorted(self.owner.items()) if owner == pp]
        layers = [layer for start, stop in ranges for layer in self.model.layers[start:stop]]
        first = [p for p in Sequential(layers).parameters() if self.shared.get(p.name, (pp,))[0] == pp]
        replicas = self.widths[pp]
        if replicas == 1 or self.level == 0:
            return first[dp::replicas]
        wholes = [p for p in first if not is_shared_out(p, self.level)]
        shards = [shard_of(p, replicas, dp) for p in first if is_shared_out(p, self.level)]
        return [shard for shard in shards if shard.box_shape[0]] + wholes[dp::replicas]

    def reached(self, comm: Communicator) -> Reached:
        """What finds the parameters that a step leaves alone, over the ranks of the job, `comm`."""
        names = [p.name for p in self.model.parameters() if p.trained]
        return Reached(comm, names, [p for found in self.parameters.values() for p in found if p.trained])

    def clear_gradients(self) -> None:
        """Forget what a pass without an update accumulated."""
        for found in (*self.parameters.values(), *self.kept.values()):
            for parameter in found:
                parameter.clear_grad()

    def nbytes(self) -> dict[str, int]:
        """Bytes of the arrays that are kept at this moment, by what they are."""
        parameters = {id(p): p for found in (*self.parameters.values(), *self.kept.values()) for p in found}.values()
        arrays = {
            "weights": [p.data for p in parameters],
            "gradients": [p.grad for p in parameters],
            "optimizer": [array for state in self.states.values() for array, _ in state.arrays().values()],
        }
        return {kind: sum(_roots(found)) for kind, found in arrays.items()}

    def _materialize(self, arrays: Arrays, dtype: np.dtype, seed: int) -> None:
        for found in self.parameters.values():
            for parameter in found:
                if self.zero is None or self.zero.level < 3 or not is_shared_out(parameter, 3):
                    parameter.materialize(arrays, dtype, seed)
        if self.zero is not None:
            self.zero.materialize(arrays, dtype, seed)

    def _kept(self, parameter: Parameter) -> Parameter:
        return parameter if self.zero is None else self.zero.shards.get(parameter, parameter)


def _roots(arrays: list[Array | None]) -> list[int]:
    """The bytes of the memory that the arrays lie in, each once."""
    roots = {}
    for array in arrays:
        if array is not None:
            root = array
            while root.base is not None and hasattr(root.base, "nbytes"):
                root = root.base
            roots[id(root)] = root.nbytes
    return list(roots.values())
