"""`unroll`: a rank's actions from a table of phases.

Invariant: a cell names a kind and a queue, never a microbatch; each queue is used up in its own order, so a table that takes
every queue to its end runs every microbatch once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mpitrain.program.action import Action, Kind

#: A stage and a microbatch.
Slot = tuple[int, int]

#: How often a row is repeated (not at all if negative), and the row: its cells, such as `F0 B1`, parted by spaces.
Phase = tuple[int, str]


def unroll(
    phases: Sequence[Phase], forwards: Mapping[str, Iterable[Slot]], backwards: Mapping[str, Iterable[Slot]]
) -> list[Action]:
    """Write out `phases`.

    A cell is a kind followed by the name of a queue: `F1` takes the next of `forwards["1"]`, `B1` and `I1` that of
    `backwards["1"]`; `W` takes the slot whose `I` is longest ago and has had no `W`, and `W1` that of queue 1.
    """
    queues = {Kind.F: {name: iter(slots) for name, slots in forwards.items()}}
    queues[Kind.B] = queues[Kind.I] = {name: iter(slots) for name, slots in backwards.items()}
    put_off: list[tuple[str, Slot]] = []
    actions = []
    for count, row in phases:
        cells = [(Kind(cell[0]), cell[1:]) for cell in row.split()]
        for kind, name in cells * count:
            if kind is Kind.W:
                _, slot = put_off.pop(next(i for i, (queue, _) in enumerate(put_off) if name in ("", queue)))
            else:
                slot = next(queues[kind][name])
            if kind is Kind.I:
                put_off.append((name, slot))
            actions.append(Action(kind, *slot))
    return actions


def unroll_v(phases: Sequence[Phase], ranks: int, rank: int, run: int, kept: int) -> list[Action]:
    """Write out the `phases` of `rank` in the V placement, of the first `kept` of `run` microbatches.

    Chunk 0 is on the way down the ranks, the stage `rank`; chunk 1 on the way up, the stage 2 `ranks` - 1 - `rank`.  A table
    that needs many microbatches serves for fewer, because leaving out a microbatch breaks no order.
    """
    queues = {chunk: [(stage, i) for i in range(run)] for chunk, stage in [("0", rank), ("1", 2 * ranks - 1 - rank)]}
    return [action for action in unroll(phases, queues, queues) if action.microbatch is not None and action.microbatch < kept]
