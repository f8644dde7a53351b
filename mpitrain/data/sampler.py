"""`Sampler`: the endless order in which training reads a dataset, and `Position`, all that it remembers.

Invariant: sample k of the whole run is a function of (seed, size, k), so no layout, rank count, batch size or resumption
changes the order.  Each epoch is a permutation of the dataset; batches run across its end, so nothing is dropped or read twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpitrain.arrays import Stream
from mpitrain.data.permutation import permute


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a run stands: `consumed` samples of `epoch` have been read."""

    seed: int
    epoch: int = 0
    consumed: int = 0


class Sampler:
    """Reads a dataset of `size` samples, each epoch in another random order, or in its own order without `shuffle`.

    `ValueError` if there is nothing to read.
    """

    def __init__(self, size: int, seed: int = 0, *, shuffle: bool = True) -> None:
        if size < 1:
            raise ValueError(f"the dataset has {size} samples; expected at least one: check the data's path and its split")
        self.size, self.seed, self.shuffle = size, seed, shuffle

    def start(self) -> Position:
        """The position of a run that has read nothing."""
        return Position(seed=self.seed)

    def count_before(self, position: Position) -> int:
        """How many samples the run has read: the number, in the order of the whole run, of the one that comes next."""
        return position.epoch * self.size + position.consumed

    def take(self, position: Position, count: int) -> tuple[np.ndarray, Position]:
        """The next `count` samples' numbers in the dataset, int64, and the position after them."""
        if position.consumed >= self.size:
            raise ValueError(
                f"the position stands after sample {position.consumed} of an epoch and the dataset has {self.size}; "
                "expected the data that the run began with: resume with that, or start a new run"
            )
        parts = [np.empty(0, np.int64)]
        while count:
            step = min(count, self.size - position.consumed)
            parts.append(self._numbers(position, step))
            count -= step
            epoch, consumed = divmod(self.count_before(position) + step, self.size)
            position = replace(position, epoch=epoch, consumed=consumed)
        return np.concatenate(parts), position

    def _numbers(self, position: Position, count: int) -> np.ndarray:
        """`count` samples' numbers that lie in one epoch."""
        numbers = np.arange(position.consumed, position.consumed + count)
        return permute(numbers, self.size, Stream(position.seed, f"epoch {position.epoch}")) if self.shuffle else numbers
