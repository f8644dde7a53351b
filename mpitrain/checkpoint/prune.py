"""Which checkpoints of a folder may go.

Invariant: the one that was just written stays, and only whole ones count beside it; so a damaged one, which may be the newer of
two histories, never makes a good one go.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from mpitrain.checkpoint.common import common_steps, open_common
from mpitrain.checkpoint.leader import leads_disk
from mpitrain.comm import Communicator


def prune(comm: Communicator, folder: Path, keep: int, *, written: int) -> list[Path]:
    """Keep the checkpoint of step `written` and the newest `keep` - 1 whole ones before it; the paths of those removed.

    What unfinished saves left goes too; checkpoints of later steps stay.  A `UserWarning` on rank 0 for each damaged one that
    is passed over.  Collective.
    """
    kept, gone = 0, []
    for step in common_steps(comm, folder):
        path = folder / f"step-{step:08d}"
        if step <= written and kept == keep:
            gone.append(path)
        elif step == written or (step < written and _whole(comm, path)):
            kept += 1
    if leads_disk(comm, folder):
        for path in (*gone, *folder.glob("step-*.partial")):
            if path.exists():
                shutil.rmtree(path)
    return gone


def _whole(comm: Communicator, path: Path) -> bool:
    try:
        open_common(comm, path, verify=False)
    except ValueError as error:
        if comm.rank == 0:
            warnings.warn(f"passing over {path}: {error}", stacklevel=3)
        return False
    return True
