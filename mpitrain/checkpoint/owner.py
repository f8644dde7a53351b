"""The owner of a folder: one job at a time writes to it, and says in the folder who it is.

Invariant: the lock is the directory `owner` in the folder, put there whole by one rename, which fails where there is one
already; that holds on network file systems too.  A job that ends gives the folder back; of one that was killed the lock is
stale, and is taken over: on its own machine once its process is gone, on another once it has not been touched for `LIMIT_S`.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mpitrain.text import read_text

#: Seconds after which a lock that its owner no longer touches is stale, and between two touches.  Network file systems may
#: show a touch a minute late.
LIMIT_S, BEAT_S = 120.0, 10.0

_LOCK, _FILE = "owner", "owner.json"
#: What batch systems call a job, by the name that a person knows them by.
_BATCH_JOBS = {"Slurm": "SLURM_JOB_ID", "PBS": "PBS_JOBID", "LSF": "LSB_JOBID"}


class Owner(BaseModel):
    """A job that owns a folder."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    #: As in "Slurm job 4711"; empty without a batch system.
    job: str
    started: str
    #: The kernel and the process table that `pid` belongs to: equal only where one can look the other's process up.
    machine: str
    #: When the process began, as the kernel has it, since numbers of processes are used again.
    birth: str
    #: Another one for each lock.
    token: str

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Owner:
        """This process."""
        jobs = [f"{system} job {environment[name]}" for system, name in _BATCH_JOBS.items() if name in environment]
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            job="".join(jobs[:1]),
            started=datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
            machine=_machine(),
            birth=_birth(os.getpid()) or "",
            token=uuid.uuid4().hex,
        )

    def __str__(self) -> str:
        return ", ".join(filter(None, [f"process {self.pid} on {self.host}", self.job, f"started {self.started}"]))


class Lock:
    """This process owns `folder` until `release`, or until nothing refers to this any more.

    `ValueError` names the owner if there is one.
    """

    def __init__(self, folder: Path) -> None:
        me = Owner.here()
        mine = folder / f"{_LOCK}.{me.token}"
        mine.mkdir()
        try:
            (mine / _FILE).write_text(me.model_dump_json(indent=1), encoding="utf-8")
            while not _moved(mine, folder / _LOCK):
                _take_over(folder, mine / _FILE)
        except BaseException:
            shutil.rmtree(mine, ignore_errors=True)
            raise
        self._folder, self._me = folder, me
        ended = threading.Event()
        self.release = weakref.finalize(self, _give_back, folder, me, ended)
        threading.Thread(target=_touch, args=(folder / _LOCK / _FILE, ended), name="owner", daemon=True).start()

    def lost(self) -> str | None:
        """Why the folder is no longer ours, as after a long stop of this process; `None` if it is."""
        found = _read(self._folder)
        if found is not None and found.token == self._me.token:
            return None
        how = f"{found} took it over" if found else "its lock was removed"
        return (
            f"{self._folder} no longer belongs to this job: {how}. Nothing more is written there; end this job, or let it "
            "write to another folder"
        )


def _moved(directory: Path, to: Path) -> bool:
    """Rename `directory`, unless there is one called `to` that is not empty; whether it was."""
    try:
        directory.rename(to)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _take_over(folder: Path, mine: Path) -> None:
    """Move a stale lock away; `ValueError` if its owner lives."""
    owner = _read(folder)
    if owner is None:
        return
    if _lives(owner, folder / _LOCK / _FILE, mine):
        raise ValueError(
            f"{folder} belongs to another job, {owner}; wait until it has ended, or choose another folder "
            f"(if it is certain that it has ended, remove {folder / _LOCK})"
        )
    # Of several jobs that find it, the place that the first moves it to is taken for the others, so none moves a newer lock.
    with suppress(FileNotFoundError):
        if _moved(folder / _LOCK, folder / f"{_LOCK}.gone-{owner.token}"):
            warnings.warn(f"taking {folder} over from a job that never gave it back: {owner}", stacklevel=2)


def _lives(owner: Owner, lock: Path, mine: Path) -> bool:
    """Whether the owner runs: the kernel knows on its own machine; elsewhere, whether it still touches the lock.

    Times are those of the file system, which `mine` shows.
    """
    if owner.machine == _machine():
        return _birth(owner.pid) in (owner.birth, "")
    first, begun, told = _touched(lock), time.monotonic(), False
    while True:
        os.utime(mine)
        if max(_touched(mine) - first, time.monotonic() - begun) > LIMIT_S:
            return False
        if _touched(lock) != first:
            return lock.exists()
        if not told:
            warnings.warn(f"watching for {LIMIT_S:g} s whether the owner of {lock.parent.parent} lives: {owner}", stacklevel=2)
            told = True
        time.sleep(1.0)


def _touch(file: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with suppress(OSError):
            os.utime(file)


def _give_back(folder: Path, me: Owner, ended: threading.Event) -> None:
    """Remove the lock, if it is still ours, and the stale ones that were moved away."""
    ended.set()
    found = _read(folder)
    if me.pid == os.getpid() and found is not None and found.token == me.token:
        for gone in folder.glob(f"{_LOCK}.gone-*"):
            shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(folder / _LOCK, ignore_errors=True)


def _read(folder: Path) -> Owner | None:
    """Who the lock names; `None` without a lock."""
    file = folder / _LOCK / _FILE
    try:
        return Owner.model_validate_json(read_text(file))
    except FileNotFoundError:
        return None
    except ValueError:
        unknown = dict.fromkeys(Owner.model_fields, "unknown")
        return Owner.model_validate(unknown | {"pid": 0, "machine": ""})


def _touched(file: Path) -> float:
    """When `file` was written or touched last; opening it asks a network file system anew.  0 if there is none."""
    try:
        with file.open("rb") as opened:
            return os.fstat(opened.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


def _machine() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):  # only on Linux
        parts += [read_text("/proc/sys/kernel/random/boot_id").strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _birth(pid: int) -> str | None:
    """When the process began, in the kernel's ticks, empty where the system does not say; `None` if it has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    try:
        state, *fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return ""
    return None if state in "ZX" else fields[18]
