"""Learning-rate schedules: the factor on an optimizer's `lr` as a function of how many steps have been taken.

Invariant: a schedule has no state, so a resumed run goes on where it was.  With `warmup` w, step s < w has the factor
(s + 1) / (w + 1): from above zero, and short of 1, which step w has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from mpitrain.bounds import Count, NotNegativeInt, Part, check_fields


class LearningRate(Protocol):
    """Anything that gives a factor for a step."""

    def __call__(self, step: int) -> float:
        """The factor for the step that follows `step` finished ones; the first step's is that of 0."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """1 after the warm-up."""

    warmup: NotNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, step: int) -> float:
        """See `LearningRate`."""
        return _warm(step, self.warmup)


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """From 1 after the warm-up in a straight line to `final` at step `steps`, and `final` from there on."""

    steps: Count
    warmup: NotNegativeInt = 0
    final: Part = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, step: int) -> float:
        """See `LearningRate`."""
        left = 1.0 - _progress(step, self.warmup, self.steps)
        return _warm(step, self.warmup) * (self.final + (1.0 - self.final) * left)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """From 1 after the warm-up along half a cosine to `final` at step `steps` (Loshchilov and Hutter 2017, equation 5)."""

    steps: Count
    warmup: NotNegativeInt = 0
    final: Part = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, step: int) -> float:
        """See `LearningRate`."""
        left = 0.5 * (1.0 + math.cos(math.pi * _progress(step, self.warmup, self.steps)))
        return _warm(step, self.warmup) * (self.final + (1.0 - self.final) * left)


@dataclass(frozen=True, kw_only=True, slots=True)
class WSD:
    """Warm-up, stable, decay (Hu et al. 2024, "MiniCPM", section 4.2).

    1 after the warm-up, then over the last `decay` of `steps` in a straight line (the paper leaves the form open) to `final`.
    """

    steps: Count
    decay: Count
    warmup: NotNegativeInt = 0
    final: Part = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, step: int) -> float:
        """See `LearningRate`."""
        left = 1.0 - _progress(step, self.steps - self.decay, self.steps)
        return _warm(step, self.warmup) * (self.final + (1.0 - self.final) * left)


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1))


def _progress(step: int, start: int, stop: int) -> float:
    """How far `step` is from `start` to `stop`, in [0, 1]."""
    return min(1.0, max(0.0, (step - start) / max(1, stop - start)))
