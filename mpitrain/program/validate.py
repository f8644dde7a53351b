"""`validate`: prove on one process that a program is complete, in order, matched and free of deadlock, before anything runs.

Invariant: a program that passes runs to its end under the executor's rules, on any number of replicas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mpitrain.program.action import Action, Kind, Program, owners
from mpitrain.program.replay import SENDERS, replay, sender_of
from mpitrain.program.transfer import tag_of


class ProgramError(ValueError):
    """A program that cannot be run as it stands."""


def validate(program: Program, *, backward: bool = True, max_tag: int | None = None) -> None:
    """Raise `ProgramError`, showing the culprit in the program's grid, unless the program can be run.

    That is: every microbatch runs forward once and (with `backward`) backward once on every stage, each stage lives on one
    rank, B comes after F and W after I, what a stage needs is there when it runs, every send has its
    receive, no order can block all ranks, and every message's tag is at most `max_tag`.
    """
    _check_compute(program, backward)
    _check_order(program)
    _check_transfers(program)
    walk = replay(program, lambda action: 0.0, lambda action: 0.0)
    if walk.stuck:
        waits = "; ".join(f"rank {rank} waits in {action}" for rank, action in walk.stuck.items())
        raise ProgramError(f"the program cannot finish: {waits}\n{grid(program, walk.stuck.items())}")
    stages = len(owners(program))
    largest = max((tag_of(a, stages) for actions in program for a in actions if a.kind in SENDERS), default=0)
    if max_tag is not None and largest > max_tag:
        raise ProgramError(
            f"the program needs message tags up to {largest} and this MPI allows {max_tag}; use fewer microbatches or stages"
        )


def grid(program: Program, here: Iterable[tuple[int, Action]]) -> str:
    """The program, one line a rank, the actions of `here` marked."""
    marks = dict(here)
    lines = []
    for rank, actions in enumerate(program):
        end = actions.index(marks[rank]) + 1 if rank in marks and marks[rank] in actions else None
        shown = " ".join(map(str, actions[:end])) + ("  <-- here" if end else "")
        lines.append(f"  rank {rank}: {shown}")
    return "\n".join(lines)


def _fail(program: Program, rank: int, action: Action, why: str) -> None:
    raise ProgramError(f"rank {rank}, {action}: {why}\n{grid(program, [(rank, action)])}")


def _check_compute(program: Program, backward: bool) -> None:
    """Each stage on one rank, and the same microbatches through each, once forward and once backward."""
    owner = owners(program)
    if sorted(owner) != list(range(len(owner))):
        raise ProgramError(f"the program has stages {sorted(owner)}; expected 0, 1, 2 and so on without a gap")
    microbatches = {a.microbatch for actions in program for a in actions if a.kind is Kind.F}
    for rank, actions in enumerate(program):
        counts = Counter(actions)
        for action, count in counts.items():
            if action.kind in _NEEDS and owner.get(action.stage) != rank:
                home = owner.get(action.stage)
                _fail(program, rank, action, f"stage {action.stage} lives on rank {home}; expected one rank a stage")
            if count > 1 and action.microbatch is not None:
                _fail(program, rank, action, f"stands {count} times; expected once")
        for stage in (s for s, r in owner.items() if r == rank):
            for i in sorted(m for m in microbatches if m is not None):
                times = {kind: counts[Action(kind, stage, i)] for kind in _NEEDS}
                wanted = [(1, 1, 0, 0), (1, 0, 1, 1)] if backward else [(1, 0, 0, 0)]
                if tuple(times.values()) not in wanted:
                    found = ", ".join(f"{kind.value} {n} times" for kind, n in times.items())
                    expected = "F once and either B, or I and W, once" if backward else "F once and nothing backward"
                    raise ProgramError(f"stage {stage}, microbatch {i} on rank {rank}: found {found}; expected {expected}")


#: What has to have run before an action, on the same rank: kind -> kind on the same stage and microbatch.
_NEEDS: dict[Kind, Kind | None] = {Kind.F: None, Kind.B: Kind.F, Kind.I: Kind.F, Kind.W: Kind.I}
#: What a send passes on must have been made before by one of these kinds.
_MADE_BY = {Kind.SEND_F: (Kind.F,), Kind.SEND_B: (Kind.B, Kind.I)}


def _check_order(program: Program) -> None:
    """Every action after the ones whose results it uses."""
    last = len(owners(program)) - 1
    for rank, actions in enumerate(program):
        done: set[Action] = set()
        for action in actions:
            stage, i = action.stage, action.microbatch
            before = _NEEDS.get(action.kind)
            if before and Action(before, stage, i) not in done:
                _fail(program, rank, action, f"{Action(before, stage, i)} has to come before it")
            if action.kind is Kind.F and stage > 0:
                _need_one(program, rank, action, done, [Action(Kind.RECV_F, stage, i), Action(Kind.F, stage - 1, i)])
            if action.kind in (Kind.B, Kind.I) and stage < last:
                after = [Action(kind, stage + 1, i) for kind in (Kind.B, Kind.I)]
                _need_one(program, rank, action, done, [Action(Kind.RECV_B, stage, i), *after])
            if action.kind in _MADE_BY:
                _need_one(program, rank, action, done, [Action(kind, stage, i) for kind in _MADE_BY[action.kind]])
            done.add(action)


def _need_one(program: Program, rank: int, action: Action, done: set[Action], needs: list[Action]) -> None:
    if not done.intersection(needs):
        _fail(program, rank, action, f"one of {', '.join(map(str, needs))} has to come before it")


def _check_transfers(program: Program) -> None:
    """Every receive has a send on another rank, and every send a receive."""
    sends = {a: rank for rank, actions in enumerate(program) for a in actions if a.kind in _MADE_BY}
    for rank, actions in enumerate(program):
        for action in actions:
            if action.kind not in SENDERS:
                continue
            if sends.pop(sender_of(action), rank) == rank:
                _fail(program, rank, action, f"no other rank has {sender_of(action)}, which it waits for")
    for action, rank in sends.items():
        _fail(program, rank, action, "no rank receives it")
