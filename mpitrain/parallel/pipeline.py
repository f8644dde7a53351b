"""Pipeline parallelism: the stages of a rank, and what crosses between stages.

Invariant: a parameter of a rank belongs to one of its stages, however many compute with it; both sides of a boundary know what
crosses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from mpitrain.arrays import FLOATS, Arrays
from mpitrain.autograd import Context, Tensor
from mpitrain.comm.communicator import Communicator
from mpitrain.nn import Model, Parameter, Sequential
from mpitrain.program import Boundary
from mpitrain.program.transfer import MAX_PARTS


def cut_for(model: Model, ranges: Sequence[tuple[int, int]], owner: Mapping[int, int], rank: int) -> dict[int, Sequential]:
    """The stages of `rank`, by number: copies of the model's layers that share nothing with it."""
    mine = sorted(stage for stage, found in owner.items() if found == rank)
    return dict(zip(mine, model.cut([ranges[stage] for stage in mine]), strict=True))


def parameters_by_stage(stages: Mapping[int, Sequential]) -> dict[int, list[Parameter]]:
    """The parameters of each stage of a rank; one that two of them share belongs to the first."""
    seen: set[int] = set()
    found = {}
    for stage, module in stages.items():
        found[stage] = [p for p in module.parameters() if id(p) not in seen]
        seen.update(map(id, found[stage]))
    return found


def agree_on_boundaries(
    comm: Communicator,
    owner: Mapping[int, int],
    stages: Mapping[int, Sequential],
    sample: np.ndarray | None,
    arrays: Arrays,
    dtype: np.dtype,
    whole: Callable[[int], AbstractContextManager[None]],
) -> dict[int, tuple[Boundary, ...]]:
    """For each stage that borders on one of this rank's: what enters it, learnt by passing one sample down the pipeline once.

    `sample` is the input of one sample, with its sample dim, on the rank of stage 0; real numbers enter as `dtype`.  A stage's
    weights are there within `whole(stage)`.  Collective over `comm`.
    """
    found: dict[int, tuple[Boundary, ...]] = {}
    x: Any = (
        None if sample is None else Tensor(arrays.asarray(sample, dtype if sample.dtype.kind == "f" else None), context=_DRY)
    )
    for stage in range(len(owner)):
        if owner[stage] == comm.rank:
            parts = [_stand_in(part, arrays) for part in found.get(stage, ())] if stage > 0 else [x]
            with whole(stage):
                x = stages[stage](parts[0] if len(parts) == 1 else tuple(parts))
        if stage + 1 < len(owner):
            found |= _pass_on(comm, owner[stage], owner[stage + 1], stage + 1, x if isinstance(x, tuple) else (x,))
    return found


_DTYPES = [*FLOATS.values(), *map(np.dtype, ("int64", "int32", "int16", "int8", "uint8", "uint16", "bool"))]
_HEADER = 10  # numbers in the header of a part: dims, dtype, and up to 8 dims


def _stand_in(part: Boundary, arrays: Arrays) -> Tensor:
    """A sample of zeros."""
    return Tensor(arrays.zeros((1, *part.shape), part.dtype), context=_DRY)


_DRY = Context(record=False, train=False)


def _pass_on(
    comm: Communicator, source: int, dest: int, stage: int, parts: Sequence[Tensor]
) -> dict[int, tuple[Boundary, ...]]:
    """Tell `dest` the shapes and dtypes that enter `stage`; on the two ranks, what was told.

    `ValueError` if a layer hands on more tensors than a message can have parts.
    """
    header = np.full((MAX_PARTS, _HEADER), -1, np.int64)
    if comm.rank == source:
        if len(parts) > MAX_PARTS:
            raise ValueError(
                f"{len(parts)} tensors cross into stage {stage}; expected at most {MAX_PARTS}: join some, or cut elsewhere"
            )
        for row, part in zip(header, parts, strict=False):
            row[:2] = part.data.ndim - 1, _DTYPES.index(part.data.dtype)
            row[2 : 1 + part.data.ndim] = part.shape[1:]
        if source != dest:
            comm.isend(header, dest, stage).wait()
    elif comm.rank == dest:
        comm.irecv(header, source, stage).wait()
    else:
        return {}
    told = [row for row in header.tolist() if row[0] >= 0]
    return {stage: tuple(Boundary(shape=tuple(shape[:dims]), dtype=_DTYPES[dtype]) for dims, dtype, *shape in told)}
