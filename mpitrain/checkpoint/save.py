"""`save`: every rank writes its part of a checkpoint, and it appears only once all of it is on disk.

Invariant: `step-N` exists whole or not at all.  It is written as `step-N.partial`, flushed, and renamed by the first rank of
each disk after every rank has said that its file is there; if one cannot write, all raise the same error and the partial folder
goes.  Where each host has a disk of its own, each has its ranks' files there, and the manifest of all.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpitrain.arrays import Array, to_host
from mpitrain.checkpoint.agree import WriteError, together
from mpitrain.checkpoint.disk import flush, make_empty, write_tensors
from mpitrain.checkpoint.leader import leads_disk
from mpitrain.checkpoint.manifest import Manifest, Part, StoredFile, StoredTensor, merged
from mpitrain.comm import Communicator, gather_text
from mpitrain.nn import Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An array to store: the part `box` of the tensor `name`, whose global shape is `shape`."""

    name: str
    array: Array
    shape: tuple[int, ...]
    box: Box


def save(folder: Path, step: int, comm: Communicator, entries: Sequence[Entry], meta: dict[str, Any]) -> Path:
    """Write the checkpoint `folder/step-<step>` and return its path.  Collective.

    `entries` are the parts that this rank alone writes: those of all ranks together are every tensor, once.  `meta` (JSON
    values; rank 0's counts) is kept in the manifest.  A checkpoint of the same step is replaced.  `OSError` on every rank,
    naming the first that failed, if one could not write.
    """
    final = folder / f"step-{step:08d}"
    partial = final.with_name(f"{final.name}.partial")
    file = f"rank-{comm.rank:05d}.safetensors"
    lead = False
    try:
        lead = leads_disk(comm, folder)
        together(comm, lambda: make_empty(partial), here=lead)
        part = together(comm, lambda: _write_part(partial, file, step, entries))
        assert part is not None
        parts = [Manifest.model_validate_json(text) for text in gather_text(comm, part.model_dump_json())]
        manifest = merged(step, meta, parts)
        together(comm, lambda: _publish(manifest, partial, final), here=lead)
    except WriteError as error:
        if lead:
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"could not write the checkpoint {final}: {error}. Nothing was kept; "
            "make room, or choose a folder that every rank can write"
        ) from error
    return final


def _write_part(folder: Path, file: str, step: int, entries: Sequence[Entry]) -> Manifest:
    """Write this rank's file to the disk; the manifest of it alone."""
    arrays = {entry.name: np.asarray(to_host(entry.array), order="C") for entry in entries}
    assert len(arrays) == len(entries), "a rank writes one part of a tensor"
    write_tensors(folder / file, arrays)
    with (folder / file).open("rb") as stored:
        digest = hashlib.file_digest(stored, "sha256").hexdigest()
    tensors = {
        entry.name: StoredTensor(
            shape=entry.shape, dtype=arrays[entry.name].dtype.name, parts=(Part(file=file, box=entry.box),)
        )
        for entry in entries
    }
    files = {file: StoredFile(size=(folder / file).stat().st_size, sha256=digest)}
    return Manifest(step=step, meta={}, tensors=tensors, files=files)


def _publish(manifest: Manifest, partial: Path, final: Path) -> None:
    """Write the manifest and give the folder its name, with every step on disk before the next."""
    manifest.write(partial)
    for path in (*partial.glob("manifest.*"), partial):
        flush(path)
    replaced = final.with_name(f"{final.name}.replaced.partial")
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    flush(final.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
