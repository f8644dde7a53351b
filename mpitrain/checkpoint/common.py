"""`Common`: a checkpoint as all ranks of a job read it, whether they share its folder or each host has a part on its own disk.

Invariant: which checkpoint it is, and that every byte of it is unhurt, is agreed before anything is loaded; of each file, one
rank of each disk that holds it has looked at every byte.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from mpitrain.checkpoint.agree import first_failure
from mpitrain.checkpoint.folder import is_checkpoint, steps_seen
from mpitrain.checkpoint.load import Checkpoint
from mpitrain.checkpoint.manifest import NAME, Manifest
from mpitrain.comm import Communicator, Reduction, gather_text

#: Bytes of a file that go from disk to disk in one message.
_PIECE = 2**26


@dataclass(frozen=True, kw_only=True, slots=True)
class Common:
    """A checkpoint that the ranks can read together."""

    checkpoint: Checkpoint
    #: For each file, the first rank whose disk has it.
    holders: Mapping[str, int]
    #: The files on this rank's disk.
    here: frozenset[str]

    def bring(self, comm: Communicator, needed: Iterable[str]) -> None:
        """Copy to this rank's disk those of the files `needed` that only other disks have.

        Collective; `OSError` on every rank, naming the first that failed, if one could not be read or written.
        """
        missing = set(needed) - self.here
        for name in sorted({name for text in gather_text(comm, "\n".join(missing)) for name in text.splitlines()}):
            failure = self._copy(comm, name, wanted=name in missing)
            if (first := first_failure(comm, failure)) is not None:
                raise OSError(f"the checkpoint file {name} could not be copied from rank {self.holders[name]}'s disk: {first}")

    def _copy(self, comm: Communicator, name: str, *, wanted: bool) -> str | None:
        """Copy one file; why it failed here, if it did."""
        size, source, path = self.checkpoint.manifest.files[name].size, self.holders[name], self.checkpoint.path / name
        partial = path.with_name(f"{name}.{comm.rank}.partial")  # ranks of one disk may both want it
        failure = None
        with ExitStack() as opened:
            reader = writer = None
            try:
                reader = opened.enter_context(path.open("rb")) if comm.rank == source else None
                writer = opened.enter_context(partial.open("wb")) if wanted else None
            except OSError as error:
                failure = str(error)
            for start in range(0, size, _PIECE):
                piece = np.zeros(min(_PIECE, size - start), np.uint8)
                try:
                    if reader:
                        reader.readinto(piece.data)
                    comm.broadcast(piece, source)
                    if writer:
                        writer.write(piece.data)
                except OSError as error:
                    failure = str(error)
        if failure is None and wanted:
            os.replace(partial, path)
        return failure


def find(comm: Communicator, path: Path, *, missing_ok: bool = False) -> Common | None:
    """The checkpoint at `path`, or the one of most steps in the folder `path` that all ranks can read; `None` if it has none.

    Collective.  A `UserWarning` on rank 0 for each that is passed over.  `ValueError` on every rank if there is no such path
    (with `missing_ok`, `None`), if the one checkpoint that was asked for cannot be read, or if none of the folder's can.
    """
    if not _any(comm, path.exists() or missing_ok):
        raise ValueError(
            f"there is nothing at {path}; expected the path of a checkpoint, or of a folder with checkpoints step-N "
            "(on the command line, auto or never)"
        )
    if _any(comm, is_checkpoint(path)):
        return open_common(comm, path)
    passed_over = 0
    for step in steps_seen(comm, path):
        candidate = path / f"step-{step:08d}"
        try:
            return open_common(comm, candidate)
        except ValueError as error:
            passed_over += 1
            if comm.rank == 0:
                warnings.warn(f"passing over {candidate}: {error}", stacklevel=2)
    if passed_over:
        raise ValueError(
            f"none of the {passed_over} checkpoints in {path} can be read by all ranks, for the reasons told above; bring back "
            "a copy of one, or start afresh in another folder"
        )
    return None


def open_common(comm: Communicator, path: Path) -> Common:
    """The checkpoint at `path`, with every byte looked at.  Collective.

    `ValueError` on every rank if it is none, or a file of it is damaged or on no rank's disk.
    """
    checkpoint, failure = None, None
    try:
        checkpoint = Checkpoint(path=path, manifest=Manifest.read(path))
    except ValueError as error:
        failure = str(error)
    _raise_first(comm, failure)
    assert checkpoint is not None
    disk, files = _disk(path), checkpoint.manifest.files
    digest = sha256(checkpoint.manifest.model_dump_json().encode()).hexdigest()
    disks, digests = zip(*(text.split("\n") for text in gather_text(comm, f"{disk}\n{digest}")), strict=True)
    if other := next((rank for rank, found in enumerate(digests) if found != digests[0]), 0):
        raise ValueError(
            f"rank {other} has another checkpoint at {path} than rank 0: they are of two histories, on two disks; remove one"
        )
    mates = [rank for rank, found in enumerate(disks) if found == disk]
    share = [name for name in sorted(files)[mates.index(comm.rank) :: len(mates)] if (path / name).exists()]
    _raise_first(comm, next(filter(None, map(checkpoint.damage, share)), None))
    found = [text.splitlines() for text in gather_text(comm, "\n".join(share))]
    holders = {name: rank for rank in reversed(range(comm.size)) for name in found[rank]}
    if absent := sorted(files.keys() - holders.keys()):
        raise ValueError(f"checkpoint file {path / absent[0]} is missing: no rank sees it")
    return Common(checkpoint=checkpoint, holders=holders, here=frozenset(name for rank in mates for name in found[rank]))


def _disk(path: Path) -> str:
    """Tells the disk that a checkpoint is on from others: its manifest is one file there."""
    stat = (path / NAME).stat()
    return f"{stat.st_ino} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _any(comm: Communicator, here: bool) -> bool:
    found = np.array([int(here)])
    comm.allreduce(found, Reduction.MAX)
    return bool(found[0])


def _raise_first(comm: Communicator, failure: str | None) -> None:
    if (first := first_failure(comm, failure)) is not None:
        raise ValueError(first.removeprefix("rank 0: "))
