"""`Mesh`: a world of ranks with a layout laid over it, and `Place`: what one rank sees of it.

Invariant: the layout covers the world exactly, so every rank has one place in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpitrain.comm.communicator import Communicator, World
from mpitrain.comm.layout import Layout


class Mesh:
    """`world`, numbered by `layout`.  `ValueError` if their sizes differ."""

    def __init__(self, world: World, layout: Layout) -> None:
        if world.size != layout.size:
            raise ValueError(
                f"the layout {layout} needs {layout.size} ranks and this job has {world.size}; "
                f"start {layout.size} ranks, or choose axes that make {world.size}"
            )
        self.world = world
        self.layout = layout

    def place(self, comm: Communicator) -> Place:
        """The groups of the calling rank.  Collective: every rank calls it."""
        pp = self.layout.coordinates(comm.rank)["pp"]
        dp, links = comm.group(self.layout.replicas(pp)), comm.group(range(comm.size))
        return Place(comm=comm, layout=self.layout, dp=dp, pp_rank=pp, links=links)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One rank's view of the job."""

    #: The whole job.
    comm: Communicator
    layout: Layout
    #: The replicas at this rank's place of the pipeline.
    dp: Communicator
    #: That place.
    pp_rank: int
    #: The whole job again, for what crosses between places: messages that no other can be taken for.
    links: Communicator
