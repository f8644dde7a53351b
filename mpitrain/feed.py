"""`Feed`: the microbatches of a dataset that reach one rank, and the ways that they take from stage to stage.

Invariant: which samples a microbatch has follows from its batch's size and the layout alone; a rank that has neither the first
stage nor the last reads nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from mpitrain.comm import Place
from mpitrain.data import Dataset, Loader, share, share_jointly
from mpitrain.parallel import Routes
from mpitrain.program import Crossings, Microbatch
from mpitrain.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A rank's part of a batch."""

    microbatches: list[Microbatch]
    routes: Routes
    #: What crosses between stages, remembered from the last batch that told it.
    crossings: Crossings
    #: Whether, as far as this rank knows, the next batch has other shapes; waits until that is read.
    changing: Callable[[], bool] = lambda: False


class Feed:
    """Batches of `data`, read one ahead, for the rank at `place`; `owner` maps each stage to its rank in the pipeline.

    Close it, or use it as a context manager, to end its thread.
    """

    def __init__(self, data: Dataset, place: Place, owner: Mapping[int, int], settings: Settings) -> None:
        self._place, self._owner = place, owner
        self._starts, self._ends = (owner[stage] == place.pp_rank for stage in (0, len(owner) - 1))
        self._loader = Loader(data)
        self._microbatches = settings.microbatches
        # Of places of different width the samples have to be the same, microbatch by microbatch.
        self._share = share if place.layout.even and not settings.sync_batch_norm else share_jointly
        #: By the size of a batch.
        self._routes: dict[int, Routes] = {}
        self._crossings: defaultdict[int, Crossings] = defaultdict(dict)

    def batch(self, numbers: np.ndarray, first: int, following: np.ndarray) -> Batch:
        """The batch of `numbers`, the first of which is number `first` in the global order; `following` is read ahead."""
        routes = self._routes_of(len(numbers))
        loaded: Iterator[tuple[tuple[np.ndarray, ...], np.ndarray | None]] = repeat(((), None))
        if self._starts or self._ends:
            loaded = iter(self._loader.load(self._dealt(numbers), self._dealt(following)))
        microbatches = []
        for start, stop in routes.runs:
            inputs, targets = next(loaded) if start < stop else ((), None)
            microbatches.append(
                Microbatch(
                    samples=tuple(range(first + start, first + stop)),
                    inputs=inputs if self._starts else (),
                    targets=targets if self._ends else None,
                )
            )

        def changing() -> bool:
            if self._place.layout.pp == 1 or not self._starts:
                return False
            return self._loader.shapes_ahead() != [[part.shape for part in m.inputs] for m in microbatches if m.inputs]

        crossings = self._crossings[len(numbers)]
        return Batch(microbatches=microbatches, routes=routes, crossings=crossings, changing=changing)

    def forget(self) -> None:
        """Forget what crosses between stages, because it changes.  All ranks of a job do, or none."""
        self._crossings.clear()

    def close(self) -> None:
        """End the thread that reads."""
        self._loader.close()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _dealt(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Those of this replica, microbatch by microbatch."""
        return [numbers[start:stop] for start, stop in self._routes_of(len(numbers)).runs if start < stop]

    def _routes_of(self, count: int) -> Routes:
        """How a batch of `count` samples is dealt, and the ways that it takes."""
        if count not in self._routes:
            self._routes[count] = Routes(
                self._place,
                self._owner,
                lambda width, replica: self._share(count, width, replica, self._microbatches),
            )
        return self._routes[count]
