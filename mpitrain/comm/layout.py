"""`Layout`: how the ranks of a job are numbered along the axes of parallelism.  Pure arithmetic: no ranks needed.

Invariant: rank and coordinates determine each other; the axes are nested in the order of `AXES`, the innermost with
neighbouring ranks.  Data-parallel replicas exchange whole gradients and so sit innermost, where hosts are shared; pipeline
neighbours exchange one microbatch's activations and can sit further apart (Narayanan et al. 2021, section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: The axes, outermost first.
AXES = ("pp", "dp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The number of ranks along each axis: `dp` replicas of a pipeline of `pp` stages."""

    dp: int = 1
    pp: int = 1

    def __post_init__(self) -> None:
        for axis in AXES:
            if getattr(self, axis) < 1:
                raise ValueError(f"layout axis {axis} is {getattr(self, axis)}; expected at least 1 rank along it")

    @property
    def sizes(self) -> dict[str, int]:
        """Ranks along each axis, outermost first."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def size(self) -> int:
        """Ranks in all."""
        return math.prod(self.sizes.values())

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where `rank` stands along each axis."""
        place = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, self.sizes[axis])
        assert rank == 0, "the rank lies outside the layout"
        return place

    def rank(self, **coordinates: int) -> int:
        """The rank that stands at `coordinates` (one an axis)."""
        rank = 0
        for axis, size in self.sizes.items():
            rank = rank * size + coordinates[axis]
        return rank

    def along(self, axis: str, rank: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` in `axis` only, itself included, in order of that axis."""
        place = self.coordinates(rank)
        return tuple(self.rank(**place | {axis: i}) for i in range(self.sizes[axis]))

    def __str__(self) -> str:
        return " x ".join(f"{axis}={size}" for axis, size in reversed(self.sizes.items()))
