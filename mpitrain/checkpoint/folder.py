"""A folder of checkpoints, as one process sees it.  Invariant: only whole checkpoints count."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from mpitrain.checkpoint.load import Checkpoint
from mpitrain.checkpoint.manifest import NAME


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a checkpoint, and not a folder of some."""
    return (path / NAME).exists()


def newest(folder: Path) -> Path | None:
    """The whole checkpoint of most steps in `folder`, if there is one; a `UserWarning` for each damaged one passed over."""
    for _, path in steps(folder):
        try:
            Checkpoint.open(path)
        except ValueError as error:
            warnings.warn(f"passing over {path}: {error}", stacklevel=2)
        else:
            return path
    return None


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Everything in `folder` that is named like a checkpoint, the most steps first."""
    found = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
