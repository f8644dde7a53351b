"""`StepReport`: one step, as whoever watches the job is told it.  Invariant: it is a value; watching changes nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What rank 0 tells after a step."""

    #: Steps done, and where the job ends.
    step: int
    steps: int
    #: Mean loss of the step's batch, and of the validation data where it was taken.
    loss: float
    validation_loss: float | None
    #: Part of the validation data's targets whose class was right, with a loss of classes.
    validation_accuracy: float | None = None
    #: Norm of the mean gradient, before clipping.
    grad_norm: float
    #: Learning rate of the step, before any group's scale.
    learning_rate: float
    #: Counted targets a second, over all ranks: tokens of a language model, images of a classifier.
    targets_per_s: float
    #: What rank 0's process holds.
    memory_bytes: int
    seconds_left: float
    #: Bytes of gradients that rank 0 sent in the step; counted where they are compressed.
    sent_bytes: int | None = None
    #: Whether none of the batch's targets was counted, and so nothing was learnt from it.
    skipped: bool = False
