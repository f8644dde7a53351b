"""`Layout`: how the ranks of a job are numbered along the axes of parallelism.  Pure arithmetic: no ranks needed.

Invariant: rank and coordinates determine each other; the axes are nested, the innermost with neighbouring ranks.  Data-parallel
replicas exchange whole gradients and so sit innermost, where hosts are shared; pipeline neighbours exchange one microbatch's
activations and can sit further apart (Narayanan et al. 2021, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from mpitrain.bounds import Count, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The number of ranks along each axis: `dp` replicas of a pipeline of `pp` places.

    Given one number for each place, `dp` lets a heavy stage have more replicas than a light one: `Layout(pp=2, dp=(2, 1))` are
    three ranks, and what crosses between the places is scattered and gathered on the way.
    """

    dp: Count | Sequence[Count] = 1
    pp: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)
        given = tuple(self.dp) if isinstance(self.dp, Sequence) else (int(self.dp),) * self.pp
        if len(given) != self.pp:
            raise ValueError(
                f"layout axis pp is {self.pp} and dp = {self.dp} gives the width of {len(given)} places of the pipeline; "
                "expected dp as one number for all of its places, or as a list of one for each"
            )
        object.__setattr__(self, "dp", given[0] if len(set(given)) == 1 else given)

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of replicas at each place of the pipeline."""
        return (self.dp,) * self.pp if isinstance(self.dp, int) else tuple(self.dp)

    @property
    def widest(self) -> int:
        """The largest of them."""
        return max(self.widths)

    @property
    def even(self) -> bool:
        """Whether they are all the same, so that replica i of one place passes all that it makes to replica i of the next."""
        return isinstance(self.dp, int)

    @property
    def size(self) -> int:
        """Ranks in all."""
        return sum(self.widths)

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where `rank` stands along each axis."""
        assert 0 <= rank < self.size, "the rank lies outside the layout"
        first = list(accumulate(self.widths, initial=0))
        pp = next(pp for pp in reversed(range(self.pp)) if first[pp] <= rank)
        return {"pp": pp, "dp": rank - first[pp]}

    def rank(self, *, pp: int, dp: int) -> int:
        """The rank that stands at these coordinates."""
        return sum(self.widths[:pp]) + dp

    def replicas(self, pp: int) -> tuple[int, ...]:
        """The ranks at a place of the pipeline."""
        return tuple(self.rank(pp=pp, dp=dp) for dp in range(self.widths[pp]))

    def pipeline(self, rank: int) -> tuple[int, ...]:
        """A rank at each place of the pipeline that the samples of `rank` pass; where others pass too, the first of them."""
        pp, dp = self.coordinates(rank).values()
        lane = -(-dp * self.widest // self.widths[pp])  # as wide as the widest place, a pipeline has a lane for each replica
        return tuple(self.rank(pp=i, dp=lane * width // self.widest) for i, width in enumerate(self.widths))

    def __str__(self) -> str:
        return f"dp={self.dp if isinstance(self.dp, int) else '+'.join(map(str, self.dp))} x pp={self.pp}"
