"""A folder of checkpoints: which there are, and the newest, as one process sees it.  Invariant: only whole ones count."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from mpitrain.checkpoint.load import Checkpoint
from mpitrain.checkpoint.manifest import NAME
from mpitrain.comm import Communicator, gather_text


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a checkpoint, and not a folder of some."""
    return (path / NAME).exists()


def newest(folder: Path) -> Path | None:
    """The whole checkpoint of most steps in `folder`, if there is one; a `UserWarning` for each damaged one passed over."""
    for _, path in _steps(folder):
        try:
            Checkpoint.open(path)
        except ValueError as error:
            warnings.warn(f"passing over {path}: {error}", stacklevel=2)
        else:
            return path
    return None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Everything in `folder` that is named like a checkpoint, the most steps first."""
    found = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def steps_seen(comm: Communicator, folder: Path, *, looks: bool = True) -> list[int]:
    """The steps of the checkpoints in `folder` that any rank that `looks` sees, the most first.  Collective."""
    seen = gather_text(comm, " ".join(str(step) for step, _ in _steps(folder)) if looks else "")
    return sorted({int(step) for text in seen for step in text.split()}, reverse=True)
