"""`Claim`: a folder that a job writes to, chosen and owned by rank 0 for all.

Invariant: no rank looks by itself which folder it is; a folder that some rank cannot write is the same `ValueError` on all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mpitrain.checkpoint.agree import first_failure
from mpitrain.checkpoint.owner import Lock
from mpitrain.comm import Communicator, broadcast_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A folder that this job owns until `release`; as a context manager, until its end."""

    path: Path
    #: On rank 0.
    lock: Lock | None = None
    #: Whether it was made for this claim: then it goes again if nothing was written there.
    fresh: bool = False

    def check(self, comm: Communicator) -> None:
        """`ValueError` on every rank if another job has taken the folder over.  Collective."""
        if (lost := first_failure(comm, self.lock.lost() if self.lock else None)) is not None:
            raise ValueError(lost)

    def release(self) -> None:
        """Give the folder back."""
        if self.lock:
            self.lock.release()
            if self.fresh:
                with suppress(OSError):
                    self.path.rmdir()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def claim(comm: Communicator, folder: Path) -> Claim:
    """Own `folder`, making it where there is none.  Collective; `ValueError` if it cannot be written or has another owner."""

    def choose() -> Claim:
        folder.mkdir(parents=True, exist_ok=True)
        return Claim(path=folder, lock=Lock(folder))

    return _on_first(comm, folder, choose)


def claim_run(comm: Communicator, base: Path, *, fresh: bool) -> Claim:
    """Own the newest of the folders base, base-2, base-3, ..., or a new one after that if there is none or with `fresh`.

    Collective; `ValueError` as for `claim`.
    """

    def choose() -> Claim:
        base.parent.mkdir(parents=True, exist_ok=True)
        newest = None
        for path in (base if i == 1 else base.with_name(f"{base.name}-{i}") for i in count(1)):
            if not path.exists() and newest is not None and not fresh:
                break
            try:
                path.mkdir()
            except FileExistsError:
                newest = path
            else:
                return Claim(path=path, lock=Lock(path), fresh=True)
        assert newest is not None
        return Claim(path=newest, lock=Lock(newest))

    return _on_first(comm, base, choose)


def _on_first(comm: Communicator, folder: Path, choose: Callable[[], Claim]) -> Claim:
    """What rank 0 chooses for `folder`, on every rank; where a rank has a disk of its own, it is made there too."""
    chosen, failure = None, None
    try:
        chosen = choose() if comm.rank == 0 else None
    except (OSError, ValueError) as error:
        failure = _sentence(folder, error)
    path = folder.parent / broadcast_text(comm, chosen.path.name if chosen else folder.name, 0)
    if (first := first_failure(comm, failure)) is None:
        first = first_failure(comm, _unwritable(path))
    if first is not None:
        if chosen:
            chosen.release()
        raise ValueError(first.removeprefix("rank 0: "))
    return chosen or Claim(path=path)


def _unwritable(path: Path) -> str | None:
    """Why this rank cannot write files into the folder `path`, if it cannot."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _sentence(path, error)
    return None if os.access(path, os.W_OK | os.X_OK) else _sentence(path, PermissionError("no files can be made there"))


def _sentence(folder: Path, error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    return (
        f"the folder {folder} cannot be written ({type(error).__name__}: {error}); expected one that every rank can make and "
        "write: choose another, in a configuration by [run] folder"
    )
