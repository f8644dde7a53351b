"""What a worker writes into a checkpoint or an export, and takes from a checkpoint.

Invariant: everything is in global coordinates, so a job under any layout goes on from what a job under any other wrote:
weights, optimizer state, step, and the position in the data, which is all the random state that there is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from mpitrain.arrays import Array, namespace, to_host
from mpitrain.checkpoint import Checkpoint, Common, Entry, Weights, export, is_slot, save, slices
from mpitrain.comm import gather_text
from mpitrain.comm.allreduce import Constants
from mpitrain.data import Position
from mpitrain.nn import Box, Parameter
from mpitrain.origin import changes, origin
from mpitrain.parallel import Remembered
from mpitrain.worker import Worker


def write(worker: Worker, folder: Path) -> Path:
    """Write `folder/step-N`.  Collective; returns the new folder."""
    frozen = [p.name for p in worker.model.parameters() if not p.moves]
    source = None if worker.model.source is None else asdict(worker.model.source)
    meta = origin(worker) | {"position": asdict(worker.position), "frozen": frozen, "allreduce": _measured(worker)}
    meta |= {"source": source}
    entries = [Entry(name=name, array=array, shape=p.shape, box=p.box) for name, (array, p) in _owned(worker).items()]
    entries += [
        Entry(name=_missed(p), array=np.array(state.missed[p.name]), shape=(), box=())
        for state in worker.holding.states.values()
        for p in state.trained
        if state.missed[p.name] and p in worker.holding.owned and all(start == 0 for start, _ in p.box)
    ]
    entries += [Entry(name=r.name, array=r.array[None], shape=r.shape, box=r.box) for r in _remembered(worker) if r.writes]
    return save(folder, worker.step, worker.place.comm, entries, meta)


def write_pretrained(worker: Worker, folder: Path, shard_bytes: int) -> Path:
    """Write the weights as a folder that `transformers` loads; see `checkpoint.export`.  Collective; returns the folder."""
    holding, layout = worker.holding, worker.place.layout
    boxes: dict[str, list[tuple[int, Box]]] = defaultdict(list)
    for rank in range(layout.size):
        for p in holding.owned_by(*layout.coordinates(rank).values()):
            boxes[p.name].append((rank, p.box))
    owned = {p.name: p for p in holding.owned}

    def read(name: str, box: Box) -> np.ndarray:
        return to_host(owned[name].data[slices(box, owned[name].box)])

    weights = Weights(dtype=worker.dtype, boxes=boxes, read=read)
    export(worker.model, weights, folder, worker.place.comm, shard_bytes=shard_bytes)
    return folder


def restore(worker: Worker, found: Common, *, restart_data: bool = False) -> list[str]:
    """Go on from a checkpoint, with `restart_data` from the start of the data; how this run differs from the one that wrote it.

    `ValueError` if it is another model's, or if the dataset has another size.  Collective.
    """
    checkpoint, kept_arrays = found.checkpoint, _kept(worker)
    checkpoint.check(worker.model.parameters())
    differences = changes(checkpoint.meta, origin(worker), restart_data=restart_data)
    boxes = [(name, parameter.box) for name, (_, parameter) in kept_arrays.items()]
    step, stored = checkpoint.manifest.step, checkpoint.manifest.tensors
    states = worker.holding.states.values()
    boxes += [(_missed(p), ()) for state in states for p in state.trained]
    boxes += [(r.name, _whole(stored[r.name].shape)) for r in _remembered(worker) if r.name in stored]
    found.bring(worker.place.comm, {file for name, box in boxes for file in checkpoint.files_of(name, box)})
    frozen = set(checkpoint.meta.get("frozen", ()))  # what is trained from here on begins with nothing to remember
    for name, (array, parameter) in kept_arrays.items():
        if is_slot(name) and parameter.name in frozen:
            array.fill(0)
            continue
        array[...] = worker.arrays.asarray(checkpoint.read(name, parameter.box), array.dtype)
    _choose_again(worker, checkpoint)
    for kept in _remembered(worker):
        _recall(kept, checkpoint)
    if worker.holding.zero:
        worker.holding.zero.refresh()
    worker.feed.forget()
    worker.position = worker.sampler.start() if restart_data else Position(**checkpoint.meta["position"])
    for state in states:
        state.step_count = step
        for p in state.trained:
            missed = int(checkpoint.read(_missed(p), ())) if _missed(p) in stored else 0
            state.missed[p.name] = step if p.name in frozen else missed
    return differences


def _missed(parameter: Parameter) -> str:
    """Where a checkpoint keeps the number of steps in which nothing reached a parameter; of most there is none."""
    return f"missed/{parameter.name}"


#: For each pipeline rank, the measurement that its replicas' choice of an allreduce algorithm follows from, if any does.
_MEASURED = TypeAdapter(list[Constants | None])


def _measured(worker: Worker) -> Any:
    """The measurements of all pipeline ranks as JSON values.  Collective."""
    layout = worker.place.layout
    every = gather_text(worker.place.comm, _MEASURED.dump_json([worker.summing.constants]).decode())
    return [json.loads(every[layout.replicas(pp)[0]])[0] for pp in range(layout.pp)]


def _choose_again(worker: Worker, checkpoint: Checkpoint) -> None:
    """Choose allreduce algorithms by the checkpoint's measurements, if they are of the same layout and hosts.  Collective."""
    place, mine = worker.place, worker.summing.constants
    stored = _MEASURED.validate_python(checkpoint.meta.get("allreduce") or [None] * place.layout.pp)
    theirs = stored[place.pp_rank] if len(stored) == place.layout.pp else None
    fits = mine is None or (theirs is not None and theirs.of_one_kind(mine))
    every = place.comm.allgather(np.array([fits, mine is not None]))
    if every[:, 0].all() and every[:, 1].any():
        worker.recall(theirs)


def _remembered(worker: Worker) -> list[Remembered]:
    """What the compression of gradients keeps on this rank."""
    return worker.compression.remembered() if worker.compression else []


def _recall(kept: Remembered, checkpoint: Checkpoint) -> None:
    """Fill in one of its slots; another number of copies shares out the sum.

    It stays as it begins where the checkpoint has none like it: then another compression wrote it, or none did.
    """
    stored = checkpoint.manifest.tensors.get(kept.name)
    if stored is None or stored.shape[1:] != kept.shape[1:]:
        return
    (copies, *_), xp = stored.shape, namespace(kept.array)
    if copies == kept.shape[0]:
        kept.array[...] = xp.asarray(checkpoint.read(kept.name, kept.box)[0])
    else:
        everyone = checkpoint.read(kept.name, ((0, copies), *kept.box[1:]))
        kept.array[...] = xp.asarray(everyone.sum(axis=0) / kept.shape[0])


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


def _whole(shape: tuple[int, ...]) -> Box:
    return tuple((0, n) for n in shape)
