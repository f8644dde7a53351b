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
    arrays = list(_arrays(worker).items())
    # Replicas hold the same: each writes its share.
    mine = arrays[worker.place.dp.rank :: worker.place.dp.size]
    entries = [Entry(name=name, array=array, shape=p.shape, box=p.box) for name, (array, p) in mine]
    return save(folder, worker.step, worker.place.comm, entries, meta)


def restore(worker: Worker, path: Path) -> None:
    """Go on from the checkpoint at `path`.  `ValueError` if it is another model's or not whole.  Collective."""
    checkpoint = Checkpoint.open(path)
    checkpoint.check(worker.model.parameters())
    checkpoint.verify(worker.place.comm)
    for name, (array, parameter) in _arrays(worker, every=True).items():
        array[...] = worker.arrays.asarray(checkpoint.read(name, parameter.box), array.dtype)
    worker.position = Position(**checkpoint.meta["position"])
    for state in worker.states.values():
        state.step_count = checkpoint.manifest.step


def _arrays(worker: Worker, *, every: bool = False) -> dict[str, tuple[Array, Parameter]]:
    """Weights and optimizer state by global name: those that this rank answers for, or every one that it holds."""
    found = {p.name: (p.data, p) for parameters in worker.parameters.values() for p in parameters}
    for state in worker.states.values():
        found |= state.arrays()
    answers_for = {id(p) for p in worker.owned}
    return {name: pair for name, pair in found.items() if every or id(pair[1]) in answers_for}
