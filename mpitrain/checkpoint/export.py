"""`export`: the ranks that hold a model write it, shard by shard, as a folder that `transformers` loads.

Invariant: no rank holds more at a time than a shard, and none writes before all know that the model has a public format.  The
folder has the new weights once every file is on disk; if one rank cannot write, all raise the same error and the folder stays
as it was.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError

from mpitrain.arrays import FLOATS, to_host
from mpitrain.bounds import Count, checked
from mpitrain.checkpoint.agree import WriteError, check_written, together
from mpitrain.checkpoint.boxes import overlap, slices, volume
from mpitrain.checkpoint.common import find
from mpitrain.checkpoint.disk import write_json, write_tensors
from mpitrain.checkpoint.families import FAMILIES, Family
from mpitrain.checkpoint.huggingface import family_of
from mpitrain.checkpoint.load import Checkpoint
from mpitrain.checkpoint.publish import STAGE, begin, carry, publish, shard_names
from mpitrain.checkpoint.stored import CONFIG, INDEX
from mpitrain.comm import Communicator, broadcast_text, local
from mpitrain.nn import Box, Model, Parameter, Source

#: Most bytes of a file of weights, unless one tensor is larger: that of published folders.
SHARD_BYTES = 5 * 10**9
#: Keys of a config.json that say how its weights are stored.
_OF_OLD_WEIGHTS = ("torch_dtype", "transformers_weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Where a model's weights are: for each parameter's name, the boxes that make it, each with the rank that has it.

    `read` gives a box, or a part of one, on the rank that has it.
    """

    dtype: np.dtype
    boxes: Mapping[str, Sequence[tuple[int, Box]]]
    read: Callable[[str, Box], np.ndarray]


def export(model: Model, weights: Weights, folder: Path, comm: Communicator, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `model` with these `weights` into `folder`.  Collective.

    The folder that the model was read from gives the rest: ids, tokenizer, generation settings; a `UserWarning` names what is
    not carried over.  `ValueError` if the model has no public format; `OSError` on every rank if one could not write.
    """
    family = family_of(model)
    shards = _shards(model, family, weights.dtype.itemsize, shard_bytes)
    config = _config(model, family, weights.dtype)
    # A new name, which no network file system remembers: a rank that does not see it has another disk.
    stage = folder / STAGE / broadcast_text(comm, uuid4().hex, 0)
    lead, made = comm.rank == 0, not folder.exists()

    def finish() -> str | None:
        write_json(stage / CONFIG, config)
        if len(shards) > 1:
            write_json(stage / INDEX, _index(named, weights.dtype.itemsize))
        left = None if model.source is None else carry(Path(model.source.folder), stage, folder)
        publish(stage, folder)
        return left

    try:
        together(comm, lambda: begin(stage, folder), here=lead)
        sees = comm.allgather(np.array([stage.exists()]))[:, 0]
        names = broadcast_text(comm, "\n".join(shard_names(folder, len(shards))), 0).split("\n")
        named = dict(zip(names, shards, strict=True))
        _write_shards(named, weights, stage, comm, sees)
        left = together(comm, finish, here=lead)
    except WriteError as error:
        raise OSError(
            f"could not export to {folder}: {error}. The weights that it held, if any, are whole; "
            "make room, or choose a folder that every rank can write"
        ) from error
    finally:
        if lead:
            shutil.rmtree(stage.parent, ignore_errors=True)
            if made and folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
    if left is not None:
        warnings.warn(f"not carried over to {folder}: {left}", stacklevel=2)


@checked
def save_pretrained(model: Model, folder: str | Path, *, shard_bytes: Count = SHARD_BYTES) -> None:
    """Write a model whose arrays are all here as a folder that `transformers` loads; see `export`."""
    family_of(model)  # a model without a format is told that first
    parameters = {p.name: p for p in model.parameters()}
    absent = [name for name, p in parameters.items() if getattr(p, "data", None) is None or p.box_shape != p.shape]
    if absent:
        raise ValueError(
            f"{absent[0]} has no array here, or a part of it, and {folder} was left as it is; expected a model that is "
            "materialized. What a job has trained is on its ranks: job.export(folder)"
        )
    weights = Weights(
        dtype=next(iter(parameters.values())).data.dtype,
        boxes={name: [(0, p.box)] for name, p in parameters.items()},
        read=lambda name, box: to_host(parameters[name].data[slices(box, parameters[name].box)]),
    )
    local(1).run(lambda comm: export(model, weights, Path(folder), comm, shard_bytes=shard_bytes))


@checked
def export_checkpoint(path: Path, folder: Path, *, shard_bytes: Count = SHARD_BYTES) -> Path:
    """Write the model of a checkpoint, or of the newest whole one in the folder `path`, as such a folder; see `export`.

    This process alone does it, and reads box by box.  Returns the checkpoint's path; `ValueError` too if there is none.
    """
    return local(1).run(lambda comm: _export_found(comm, path, folder, shard_bytes))[0]


def _export_found(comm: Communicator, path: Path, folder: Path, shard_bytes: int) -> Path:
    found = find(comm, path)
    if found is None:
        raise ValueError(f"there is no checkpoint in {path}; expected a run's folder, or a checkpoint step-N of one")
    checkpoint = found.checkpoint
    model = _model_of(checkpoint)
    checkpoint.check(model.parameters())
    parameters = {p.name: p for p in model.parameters()}
    stored = checkpoint.manifest.tensors[next(iter(parameters))].dtype
    weights = Weights(
        dtype=np.dtype(FLOATS.get(stored, stored)),
        boxes={name: [(0, p.box)] for name, p in parameters.items()},
        read=checkpoint.read,
    )
    export(model, weights, folder, comm, shard_bytes=shard_bytes)
    return checkpoint.path


def _model_of(checkpoint: Checkpoint) -> Model:
    """The description of a checkpoint's model."""
    settings = dict(checkpoint.meta["model"])
    kind, source = settings.pop("kind"), checkpoint.meta.get("source")
    made = {family.model.__name__: family.model for family in FAMILIES.values()}
    if kind not in made:
        raise ValueError(
            f"checkpoint {checkpoint.path} is of a {kind}, which has no Hugging Face format; expected one of {', '.join(made)}"
        )
    model = made[kind](**settings)
    model.source = None if source is None else Source(**source)
    return model


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensor:
    """A tensor of the folder: the part `box` of a parameter, transposed if theirs is (in, out)."""

    name: str
    parameter: Parameter
    box: Box
    transposed: bool


def _tensors(model: Model, family: Family) -> Iterator[_Tensor]:
    table = family.table(model)
    for parameter in model.parameters():
        theirs, start = table[parameter.name], 0
        for name, rows in zip(theirs.names, theirs.rows(parameter, model.settings), strict=True):
            box = ((start, start + rows), *parameter.box[1:])
            yield _Tensor(name=name, parameter=parameter, box=box, transposed=theirs.transposed)
            start += rows


def _shards(model: Model, family: Family, itemsize: int, limit: int) -> list[list[_Tensor]]:
    """The tensors in the model's order, in files of at most `limit` bytes, or one tensor."""
    shards: list[list[_Tensor]] = [[]]
    room = limit
    for tensor in _tensors(model, family):
        size = volume(tensor.box) * itemsize
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= size
    return shards


def _write_shards(
    shards: Mapping[str, Sequence[_Tensor]], weights: Weights, stage: Path, comm: Communicator, sees: np.ndarray
) -> None:
    """Write each shard on the rank that has the first rows of it, or where that one does not see the folder, on rank 0.

    Every rank goes through the tensors in one order, so two that exchange a part both come to it.  A rank that cannot write
    takes what it is sent to the end, lest the others wait for it.
    """
    failed: Exception | None = None
    for name, shard in shards.items():
        owner, _ = next(_parts(shard[0], weights))
        writer = owner if sees[owner] else 0
        gathered = {tensor.name: _gathered(tensor, weights, writer, comm) for tensor in shard}
        arrays = {name: array for name, array in gathered.items() if array is not None}
        if arrays and failed is None:
            try:
                write_tensors(stage / name, arrays)
            except (OSError, SafetensorError) as error:
                failed = error
        del gathered, arrays
    check_written(comm, failed)


def _gathered(tensor: _Tensor, weights: Weights, writer: int, comm: Communicator) -> np.ndarray | None:
    """The tensor on the rank `writer`, `None` on the others."""
    shape = tuple(stop - start for start, stop in tensor.box)
    theirs = np.empty(shape[::-1] if tensor.transposed else shape, weights.dtype) if comm.rank == writer else None
    ours = theirs.T if theirs is not None and tensor.transposed else theirs
    for owner, box in _parts(tensor, weights):
        if owner == comm.rank:
            part = np.ascontiguousarray(weights.read(tensor.parameter.name, box))
            if ours is None:
                comm.isend(part, writer, tag=0).wait()
        elif ours is not None:
            part = np.empty([stop - start for start, stop in box], weights.dtype)
            comm.irecv(part, owner, tag=0).wait()
        if ours is not None:
            ours[slices(box, tensor.box)] = part
    return theirs


def _parts(tensor: _Tensor, weights: Weights) -> Iterator[tuple[int, Box]]:
    """The boxes that make the tensor, each with the rank that has it."""
    for owner, box in weights.boxes[tensor.parameter.name]:
        if (common := overlap(box, tensor.box)) is not None:
            yield owner, common


def _index(shards: Mapping[str, Sequence[_Tensor]], itemsize: int) -> dict[str, Any]:
    """Which file holds which tensor."""
    total = sum(volume(tensor.box) for shard in shards.values() for tensor in shard) * itemsize
    weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _config(model: Model, family: Family, dtype: np.dtype) -> dict[str, Any]:
    """The config.json, without the type and the file that the weights had where the model was read from."""
    source = {} if model.source is None else model.source.config
    config = family.config(model.settings, source)
    return {key: value for key, value in config.items() if key not in _OF_OLD_WEIGHTS} | {"dtype": dtype.name}
