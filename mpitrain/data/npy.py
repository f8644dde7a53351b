"""Arrays in `.npy` files, memory-mapped: only the rows that are asked for are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpitrain.data.dataset import ArrayDataset


def map_npy(path: str | Path) -> np.ndarray:
    """The array in a `.npy` file as a read-only memory map.  `ValueError` if it is empty, cut or something else."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no whole .npy file ({error}); expected what numpy.save writes: save it again") from error


def npy_dataset(inputs: str | Path, targets: str | Path, *, scale: float | None = None) -> ArrayDataset:
    """A dataset of two `.npy` files whose dim 0 counts the samples; `scale` as in `ArrayDataset`."""
    return ArrayDataset(map_npy(inputs), map_npy(targets), scale=scale)
