"""`Loader`: reads the next step's samples in a thread of its own while a rank computes.

Invariant: what it returns is what `dataset.batch` gives for the numbers asked for, checked; reading ahead changes only when.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from mpitrain.data.dataset import Dataset, read

#: The parts of the inputs, and the targets, of each microbatch.
Batches = list[tuple[tuple[np.ndarray, ...], np.ndarray]]


class Loader:
    """Microbatches of `dataset`, read one step ahead.  Close it, or use it as a context manager, to end its thread."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead: tuple[list[list[int]], Future[Batches]] | None = None

    def load(self, numbers: Sequence[np.ndarray], then: Sequence[np.ndarray] = ()) -> Batches:
        """Inputs and targets of each microbatch's `numbers`; reading those of `then` begins.

        An error while reading is raised by the call that asks for what could not be read.
        """
        ahead, self._ahead = self._ahead, None
        asked = [n.tolist() for n in numbers]
        current = ahead[1] if ahead and ahead[0] == asked else self._thread.submit(self._read, numbers)
        if len(then):
            self._ahead = [n.tolist() for n in then], self._thread.submit(self._read, then)
        return current.result()

    def shapes_ahead(self) -> list[list[tuple[int, ...]]] | None:
        """The shapes of the inputs that were read ahead, once they are; `None` if nothing was, or could be."""
        if self._ahead is None or self._ahead[1].exception():
            return None
        return [[part.shape for part in inputs] for inputs, _ in self._ahead[1].result()]

    def close(self) -> None:
        """Forget what was read ahead and end the thread."""
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self, numbers: Sequence[np.ndarray]) -> Batches:
        return [read(self.dataset, n) for n in numbers]
