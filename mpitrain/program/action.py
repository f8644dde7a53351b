"""`Action`: one thing that a rank does in a training step, as a value.

Invariant: an action says what, on which stage, for which microbatch, and nothing about how; a program is one list of them a
rank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """What an action does.  The value is how it prints."""

    F = "F"  #: forward
    B = "B"  #: backward: I and W at once
    I = "I"  #: gradient of the stage's input  # noqa: E741 (the field's name for it)
    W = "W"  #: gradients of the stage's weights
    RECV_F = "RECV_F"  #: receive the stage's input from the stage before
    SEND_F = "SEND_F"  #: send the stage's output to the stage after
    RECV_B = "RECV_B"  #: receive the gradient of the stage's output from the stage after
    SEND_B = "SEND_B"  #: send the gradient of the stage's input to the stage before
    ARM = "ARM"  #: the backward passes to come complete the stage's gradients: reduce them as they become ready
    REDUCE = "REDUCE"  #: wait until the stage's gradients are summed over its replicas
    GATHER = "GATHER"  #: start to bring the stage's weights together from the replicas that share them out
    FREE = "FREE"  #: let the stage's weights go again
    TIE = "TIE"  #: sum the gradients of weights that several ranks of a pipeline share
    TALLY = "TALLY"  #: add up loss, count and gradient norm over all ranks
    STEP = "STEP"  #: update the stage's weights

    #: There is one of each, and a table is asked for it at every action: `Enum` would hash its name anew, in Python.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Action:
    """`kind` on `stage`, for `microbatch` where the kind has one.  Prints as `2F0`, `2SEND_F0`, `2REDUCE`."""

    kind: Kind
    stage: int
    microbatch: int | None = None
    #: For a person: `2F0: F of stage 2, microbatch 0`.
    sentence: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        of = "" if self.microbatch is None else f", microbatch {self.microbatch}"
        object.__setattr__(self, "sentence", f"{self}: {self.kind.value} of stage {self.stage}{of}")

    def __str__(self) -> str:
        return f"{self.stage}{self.kind.value}{'' if self.microbatch is None else self.microbatch}"

    @staticmethod
    def parse(text: str) -> Action:
        """The action that prints as `text`; `ValueError` if none does."""
        found = re.fullmatch(rf"(\d+)({'|'.join(sorted((k.value for k in Kind), key=len, reverse=True))})(\d+)?", text.strip())
        if not found:
            raise ValueError(f"{text!r} is not an action; expected stage, kind, microbatch, such as 2F0 or 0SEND_F3")
        stage, kind, microbatch = found.groups()
        return Action(Kind(kind), int(stage), None if microbatch is None else int(microbatch))


#: One list of actions a rank of a pipeline: as a schedule function returns it (compute only) ...
Schedule = Sequence[Sequence[Action]]
#: ... and as it is run, with everything lowered in.
Program = Sequence[Sequence[Action]]


def F(stage: int, microbatch: int) -> Action:  # noqa: N802 (the field's name for it)
    """Forward of a microbatch on a stage."""
    return Action(Kind.F, stage, microbatch)


def B(stage: int, microbatch: int) -> Action:  # noqa: N802 (the field's name for it)
    """Backward of a microbatch on a stage."""
    return Action(Kind.B, stage, microbatch)


def stages_of(actions: Sequence[Action]) -> list[int]:
    """The stages that a rank's actions name, in ascending order."""
    return sorted({action.stage for action in actions})


def owners(program: Program) -> dict[int, int]:
    """For each stage, the rank of the pipeline that computes it."""
    return {action.stage: rank for rank, actions in enumerate(program) for action in actions if action.kind is Kind.F}
