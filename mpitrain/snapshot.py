"""What a worker writes into a checkpoint and takes from one.

Invariant: everything is in global coordinates, so a job under any layout goes on from what a job under any other wrote:
weights, optimizer state, step, and the position in the data, which is all the random state that there is.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from mpitrain.arrays import Array
from mpitrain.checkpoint import Checkpoint, Entry, save
from mpitrain.data import Position
from mpitrain.nn import Parameter
from mpitrain.worker import Worker


def write(worker: Worker, folder: Path) -> Path:
    """Write `folder/step-N`.  Collective; returns the new folder."""
    model = {"kind": type(worker.model).__name__, **worker.model.settings}
    meta = {"model": model, "position": asdict(worker.position), "layout": worker.place.layout.sizes}
    entries = [Entry(name=name, array=array, shape=p.shape, box=p.box) for name, (array, p) in _owned(worker).items()]
    return save(folder, worker.step, worker.place.comm, entries, meta)


def restore(worker: Worker, path: Path) -> None:
    """Go on from the checkpoint at `path`.  `ValueError` if it is another model's or not whole.  Collective."""
    checkpoint = Checkpoint.open(path)
    checkpoint.check(worker.model.parameters())
    checkpoint.verify(worker.place.comm)
    for name, (array, parameter) in _kept(worker).items():
        array[...] = worker.arrays.asarray(checkpoint.read(name, parameter.box), array.dtype)
    if worker.holding.zero:
        worker.holding.zero.refresh()
    worker.position = Position(**checkpoint.meta["position"])
    for state in worker.holding.states.values():
        state.step_count = checkpoint.manifest.step


def _kept(worker: Worker) -> dict[str, tuple[Array, Parameter]]:
    """Weights and optimizer state by global name: every array that this rank keeps, with the parameter that it belongs to."""
    found = {p.name: (p.data, p) for kept in worker.holding.kept.values() for p in kept}
    for state in worker.holding.states.values():
        found |= state.arrays()
    return found


def _owned(worker: Worker) -> dict[str, tuple[Array, Parameter]]:
    """Those that this rank answers for."""
    owned = {id(p) for p in worker.holding.owned}
    return {name: pair for name, pair in _kept(worker).items() if id(pair[1]) in owned}
