"""`validate`: prove on one process that a program is complete, in order, matched and free of deadlock, before anything runs.

Invariant: a program that passes runs to its end under the executor's rules, on any number of replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mpitrain.program.action import Action, Kind, Program, owners
from mpitrain.program.replay import SENDERS, replay, sender_of
from mpitrain.program.simulate import HELD
from mpitrain.program.transfer import tag_of


class ProgramError(ValueError):
    """A program that cannot be run as it stands."""


def validate(
    program: Program,
    *,
    backward: bool = True,
    lowest: int = 0,
    max_tag: int | None = None,
    limits: Sequence[int] | None = None,
) -> None:
    """Raise `ProgramError`, showing the culprit in the program's grid, unless the program can be run.

    That is: every microbatch runs forward once and (with `backward`, from stage `lowest` on) backward once on every stage, each
    stage lives on one rank, B comes after F and W after I, what a stage needs is there when it runs, every send has its
    receive, no order can block all ranks, no rank holds more activations of a stage than its entry of `limits`, and every
    message's tag is at most `max_tag`.  In time linear in the number of actions.

    Freedom from deadlock does not lean on room in the network.  An executor posts receives in the program's order, each at the
    latest when its action is reached, and waits for its sends only after its last action.  So whatever a send waits for, the
    next action of some rank can always be done if the replay, in which only receives and the tally wait, comes to its end:
    take the first action of the replay that is not done yet; if it is a receive, its send was started and it is posted.  After
    the last action every receive is posted, so every send ends.  This holds for any number of receives posted early, and
    for any number of replicas a stage: what waits for an action then waits for it on some replicas.
    """
    _check_compute(program, lowest if backward else len(owners(program)))
    _check_order(program)
    _check_transfers(program)
    walk = replay(program, lambda action: 0.0, lambda action: 0.0)
    if walk.stuck:
        waits = "; ".join(f"rank {rank} waits in {action}" for rank, action in walk.stuck.items())
        here = [(rank, len(walk.spans[rank])) for rank in walk.stuck]
        raise ProgramError(f"the program cannot finish: {waits}\n{grid(program, here)}")
    if limits is not None:
        _check_limits(program, limits)
    stages = len(owners(program))
    largest = max((tag_of(a, stages) for actions in program for a in actions if a.kind in SENDERS), default=0)
    if max_tag is not None and largest > max_tag:
        raise ProgramError(
            f"the program needs message tags up to {largest} and this MPI allows {max_tag}; use fewer microbatches or stages"
        )


#: The most actions of a rank that an error shows.
_SHOWN = 20


def grid(program: Program, here: Iterable[tuple[int, int]]) -> str:
    """The program, one line a rank, up to the culprits (each a rank and a place in its list); of other ranks the beginning."""
    marks = dict(here)
    lines = []
    for rank, actions in enumerate(program):
        stop = marks[rank] + 1 if rank in marks else min(_SHOWN, len(actions))
        start = max(0, stop - _SHOWN)
        cells = ["..."] * (start > 0) + [str(action) for action in actions[start:stop]]
        cells += ["  <-- here"] if rank in marks else ["..."] * (stop < len(actions))
        lines.append(f"  rank {rank}: {' '.join(cells)}")
    return "\n".join(lines)


def _fail(program: Program, rank: int, at: int, why: str) -> None:
    raise ProgramError(f"rank {rank}, {program[rank][at]}: {why}\n{grid(program, [(rank, at)])}")


def _check_compute(program: Program, lowest: int) -> None:
    """Each stage on one rank, and the same microbatches through each, once forward and, from `lowest` on, once backward."""
    owner = owners(program)
    if sorted(owner) != list(range(len(owner))):
        raise ProgramError(f"the program has stages {sorted(owner)}; expected 0, 1, 2 and so on without a gap")
    #: For each stage and microbatch, where each of its kinds stands.
    found: dict[tuple[int, int | None], dict[Kind, int]] = {}
    for rank, actions in enumerate(program):
        seen = set()
        for at, action in enumerate(actions):
            if action.microbatch is not None:
                if action in seen:
                    _fail(program, rank, at, "stands a second time; expected once")
                seen.add(action)
            if action.kind in _NEEDS:
                home = owner.get(action.stage)
                if home != rank:
                    _fail(program, rank, at, f"stage {action.stage} lives on rank {home}; expected one rank a stage")
                found.setdefault((action.stage, action.microbatch), {})[action.kind] = at
    microbatches = sorted({i for _, i in found if i is not None})
    for stage, rank in owner.items():
        backward = stage >= lowest
        wanted = [{Kind.F, Kind.B}, {Kind.F, Kind.I, Kind.W}] if backward else [{Kind.F}]
        for i in microbatches:
            places = found.get((stage, i), {})
            if set(places) not in wanted:
                kinds = " and ".join(kind.value for kind in places) or "nothing"
                expected = "F and B, or F, I and W" if backward else "F and nothing backward"
                shown = grid(program, [(rank, max(places.values(), default=len(program[rank]) - 1))])
                raise ProgramError(f"stage {stage}, microbatch {i} on rank {rank}: found {kinds}; expected {expected}\n{shown}")


#: What has to have run before an action, on the same rank: kind -> kind on the same stage and microbatch.
_NEEDS: dict[Kind, Kind | None] = {Kind.F: None, Kind.B: Kind.F, Kind.I: Kind.F, Kind.W: Kind.I}
#: What a send passes on must have been made before by one of these kinds.
_MADE_BY = {Kind.SEND_F: (Kind.F,), Kind.SEND_B: (Kind.B, Kind.I)}


def _check_order(program: Program) -> None:
    """Every action after the ones whose results it uses."""
    last = len(owners(program)) - 1
    for rank, actions in enumerate(program):
        done: set[Action] = set()
        for at, action in enumerate(actions):
            for needs in _needs(action, last):
                if done.isdisjoint(needs):
                    one = "one of " if len(needs) > 1 else ""
                    _fail(program, rank, at, f"{one}{', '.join(map(str, needs))} has to come before it")
            done.add(action)


def _needs(action: Action, last: int) -> list[list[Action]]:
    """What has to have come before `action` on its rank: one of each list."""
    stage, i = action.stage, action.microbatch
    needs = []
    if before := _NEEDS.get(action.kind):
        needs.append([Action(before, stage, i)])
    if action.kind is Kind.F and stage > 0:
        needs.append([Action(Kind.RECV_F, stage, i), Action(Kind.F, stage - 1, i)])
    if action.kind in (Kind.B, Kind.I) and stage < last:
        needs.append([Action(Kind.RECV_B, stage, i), Action(Kind.B, stage + 1, i), Action(Kind.I, stage + 1, i)])
    if action.kind in _MADE_BY:
        needs.append([Action(kind, stage, i) for kind in _MADE_BY[action.kind]])
    return needs


def _check_transfers(program: Program) -> None:
    """Every receive has a send on another rank, and every send a receive."""
    sends = {a: (rank, at) for rank, actions in enumerate(program) for at, a in enumerate(actions) if a.kind in _MADE_BY}
    for rank, actions in enumerate(program):
        for at, action in enumerate(actions):
            if action.kind in SENDERS:
                sender, _ = sends.pop(sender_of(action), (rank, at))
                if sender == rank:
                    _fail(program, rank, at, f"no other rank has {sender_of(action)}, which it waits for")
    for rank, at in sends.values():
        _fail(program, rank, at, "no rank receives it")


def _check_limits(program: Program, limits: Sequence[int]) -> None:
    """No rank holds more activations than it may."""
    for rank, (actions, limit) in enumerate(zip(program, limits, strict=True)):
        held = 0
        for at, action in enumerate(actions):
            held += HELD.get(action.kind, 0)
            if held > limit:
                _fail(program, rank, at, f"the rank holds {held} activations after it; expected at most {limit}")
