"""`Dataset`: samples by number; and the two that need no file: arrays, and a part of another dataset.

Invariant: a sample is a function of its number alone, so whichever rank reads it, and whenever, gets the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Dataset(Protocol):
    """Samples numbered from 0, all of one shape."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of the samples `numbers` (int64, any order); dim 0 of both counts the samples."""
        ...


class ArrayDataset:
    """Row i of `inputs` with row i of `targets`; memory maps are read only where samples are asked for.

    With `scale`, inputs (bytes of an image, say) come out as float32 multiplied by it.  `ValueError` if the lengths differ.
    """

    def __init__(self, inputs: np.ndarray, targets: np.ndarray, *, scale: float | None = None) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"there are {len(inputs)} inputs and {len(targets)} targets; expected one target an input")
        self.inputs, self.targets, self.scale = inputs, targets, scale

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (n, ...) and targets (n, ...)."""
        inputs, targets = self.inputs[numbers], self.targets[numbers]
        return inputs if self.scale is None else inputs * np.float32(self.scale), targets


class Subset:
    """Samples `start .. stop` of `dataset`, numbered from 0.  `ValueError` where it has no such samples."""

    def __init__(self, dataset: Dataset, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(dataset):
            raise ValueError(f"samples {start} .. {stop} were asked for; expected some of 0 .. {len(dataset)}, all there are")
        self.dataset, self.start, self.stop = dataset, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As the whole dataset's."""
        return self.dataset.batch(numbers + self.start)
