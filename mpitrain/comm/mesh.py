"""`Mesh`: a world of ranks with a layout laid over it, and `Place`: what one rank sees of it.

Invariant: the layout covers the world exactly, so every rank belongs to one group along every axis.
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
                f"start {layout.size} ranks, or choose axes whose product is {world.size}"
            )
        self.world = world
        self.layout = layout

    def place(self, comm: Communicator) -> Place:
        """The groups of the calling rank.  Collective: every rank calls it."""
        along = {axis: comm.group(self.layout.along(axis, comm.rank)) for axis in self.layout.sizes}
        return Place(comm=comm, layout=self.layout, dp=along["dp"], pp=along["pp"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One rank's view: the whole job, and its group along each axis."""

    comm: Communicator
    layout: Layout
    dp: Communicator
    pp: Communicator
