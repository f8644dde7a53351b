"""`Dataset`: samples by number; and the two that need no file: arrays, and a part of another dataset.

Invariant: a sample is a function of its number alone, so whichever rank reads it, and whenever, gets the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

#: A model's input, the samples in dim 0: an array, or a tuple of them where a sample has several parts.
Inputs = np.ndarray | tuple[np.ndarray, ...]


class Dataset(Protocol):
    """Samples numbered from 0, all of one shape."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def batch(self, numbers: np.ndarray) -> tuple[Inputs, np.ndarray]:
        """Inputs and targets of the samples `numbers` (int64, any order); dim 0 of both counts the samples.

        The model's first layer takes inputs that are a tuple as it takes what a layer gives: a tuple of tensors.
        """
        ...


def read(dataset: Dataset, numbers: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The parts of the inputs, be they one or several, and the targets of the samples `numbers`.

    `ValueError` if the dataset gives anything but arrays with a row for each of them.
    """
    found = dataset.batch(numbers)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"{type(dataset).__name__}.batch gives {_shown(found)}; expected a pair of inputs and targets")
    inputs, targets = parts_of(found[0]), found[1]
    for name, array in (*(("inputs", part) for part in inputs), ("targets", targets)):
        if not isinstance(array, np.ndarray) or array.shape[:1] != (len(numbers),):
            raise ValueError(
                f"{type(dataset).__name__}.batch of {len(numbers)} samples gives {_shown(array)} as {name}; expected an array "
                f"whose dim 0 counts the samples{', or a tuple of such arrays' if name == 'inputs' else ''}"
            )
    return inputs, targets


def parts_of(inputs: Inputs) -> tuple[np.ndarray, ...]:
    """The arrays of a model's input."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _shown(found: object) -> str:
    if isinstance(found, np.ndarray):
        return f"an array of shape {found.shape}"
    return f"{len(found)} values" if isinstance(found, tuple) else f"a {type(found).__name__}"


class ArrayDataset:
    """Row i of `inputs` with row i of `targets`; memory maps are read only where samples are asked for.

    `inputs` may be a tuple of arrays.  With `scale`, inputs (bytes of an image, say) come out as float32 multiplied by it.
    `ValueError` if the lengths differ.
    """

    def __init__(self, inputs: Inputs, targets: np.ndarray, *, scale: float | None = None) -> None:
        for part in parts_of(inputs):
            if len(part) != len(targets):
                raise ValueError(f"there are {len(part)} inputs and {len(targets)} targets; expected one target an input")
        self.inputs, self.targets, self.scale = inputs, targets, scale

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, numbers: np.ndarray) -> tuple[Inputs, np.ndarray]:
        """Inputs (n, ...) and targets (n, ...)."""
        parts = tuple(part[numbers] for part in parts_of(self.inputs))
        if self.scale is not None:
            parts = tuple(part * np.float32(self.scale) for part in parts)
        return parts if isinstance(self.inputs, tuple) else parts[0], self.targets[numbers]


class Subset:
    """Samples `start .. stop` of `dataset`, numbered from 0.  `ValueError` where it has no such samples."""

    def __init__(self, dataset: Dataset, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(dataset):
            raise ValueError(f"samples {start} .. {stop} were asked for; expected some of 0 .. {len(dataset)}, all there are")
        self.dataset, self.start, self.stop = dataset, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def batch(self, numbers: np.ndarray) -> tuple[Inputs, np.ndarray]:
        """As the whole dataset's."""
        return self.dataset.batch(numbers + self.start)
