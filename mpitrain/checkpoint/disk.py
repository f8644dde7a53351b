"""Folders that are written to be kept.

Invariant: what was flushed is on the disk, whatever happens to the machine afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def make_empty(folder: Path) -> None:
    """Make the folder, without what a job left behind in it that ended while it wrote."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` and flush it."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    flush(path)


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file and flush it; whoever may read other new files may read it, and not its owner alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(arrays), path, metadata={"format": "pt"})
    path.chmod(mode)
    flush(path)
