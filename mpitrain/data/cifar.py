"""CIFAR-10 in its binary version (Krizhevsky 2009): records of a label byte and 3 x 32 x 32 bytes, planes red, green, blue."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpitrain.data.dataset import ArrayDataset

_SHAPE, _CLASSES, _RECORD = (3, 32, 32), 10, 1 + 3 * 32 * 32


def cifar10_dataset(*paths: str | Path) -> ArrayDataset:
    """The samples of the batch files, in order: images (n, 3, 32, 32) as float32 in [0, 1], labels int64.

    `ValueError` if a file is empty, cut, or has a label above 9.
    """
    records = np.concatenate([_records(path) for path in paths])
    return ArrayDataset(records[:, 1:].reshape(-1, *_SHAPE), records[:, 0].astype(np.int64), scale=1 / 255)


def _records(path: str | Path) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % _RECORD:
        raise ValueError(
            f"{path} has {len(data)} bytes; expected a multiple of {_RECORD}, a label and an image of 32 x 32 x 3 bytes: "
            "the file is cut, or not of CIFAR-10's binary version; fetch cifar-10-binary.tar.gz again"
        )
    records = data.reshape(-1, _RECORD)
    wrong = np.flatnonzero(records[:, 0] >= _CLASSES)
    if len(wrong):
        raise ValueError(
            f"{path} has label {records[wrong[0], 0]} in record {wrong[0]}; expected 0 .. {_CLASSES - 1}: "
            "the file is damaged, or another one (CIFAR-100 has two label bytes)"
        )
    return records
