"""Which checkpoints of a folder may go.

Invariant: the one that was just written stays, and only whole ones count beside it; so a damaged one, which may be the newer of
two histories, never makes a good one go.  One rank looks at each disk.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

from mpitrain.checkpoint.agree import first_failure
from mpitrain.checkpoint.folder import steps_seen
from mpitrain.checkpoint.leader import leads_disk
from mpitrain.checkpoint.load import Checkpoint
from mpitrain.checkpoint.manifest import Manifest
from mpitrain.comm import Communicator, gather_text


def prune(comm: Communicator, folder: Path, keep: int, *, written: int) -> list[Path]:
    """Keep the checkpoint of step `written` and the newest `keep` - 1 whole ones before it; the paths of those removed.

    What unfinished saves left goes too; checkpoints of later steps stay.  A `UserWarning` on rank 0 for each damaged one that
    is passed over.  Collective.
    """
    lead = leads_disk(comm, folder)
    kept, gone = 0, []
    for step in steps_seen(comm, folder, looks=lead):
        path = folder / f"step-{step:08d}"
        if step > written:
            continue
        if kept == keep:
            gone.append(path)
        elif step == written or _whole(comm, path, lead):
            kept += 1
    if lead:
        for path in (*gone, *folder.glob("step-*.partial")):
            if path.exists():
                shutil.rmtree(path)
    return gone


def _whole(comm: Communicator, path: Path, lead: bool) -> bool:
    """Whether the disks hold all files of a checkpoint together, each of the right size."""
    absent, failure = None, None
    if lead:
        try:
            checkpoint = Checkpoint(path=path, manifest=Manifest.read(path))
            absent = [name for name in checkpoint.manifest.files if not (path / name).exists()]
            present = checkpoint.manifest.files.keys() - set(absent)
            failure = next(filter(None, (checkpoint.damage(name, deep=False) for name in present)), None)
        except ValueError as error:
            failure = str(error)
    first = first_failure(comm, failure)
    if first is None:
        each = [set(names) for names in map(json.loads, gather_text(comm, json.dumps(absent))) if names is not None]
        lost = set.intersection(*each)
        first = f"{min(lost)} is missing" if lost else None
    if first is not None and comm.rank == 0:
        warnings.warn(f"passing over {path}: {first.removeprefix('rank 0: ')}", stacklevel=3)
    return first is None
