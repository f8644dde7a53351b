"""Reading ahead: the same samples, in another thread, and errors where they belong."""

import threading

import numpy as np
import pytest

from mpitrain.data import ArrayDataset, Loader

STEPS = [[np.array([0, 3]), np.array([1])], [np.array([2]), np.array([4, 5])], [np.array([9])]]


class Watched(ArrayDataset):
    """Says when it reads and in which thread; its sample 9 cannot be read."""

    def __init__(self):
        super().__init__(np.arange(10) * 2, np.arange(10))
        self.read = []
        self.threads = set()
        self.reading_second = threading.Event()

    def batch(self, numbers):
        self.threads.add(threading.current_thread())
        self.read.append(numbers.tolist())
        if 2 in numbers:
            self.reading_second.set()
        if 9 in numbers:
            raise OSError("sample 9 cannot be read")
        return super().batch(numbers)


def test_the_next_step_is_read_ahead_and_once():
    dataset = Watched()
    with Loader(dataset) as loader:
        first = loader.load(STEPS[0], then=STEPS[1])
        assert dataset.reading_second.wait(60)
        second = loader.load(STEPS[1])
    for batches, numbers in ((first, STEPS[0]), (second, STEPS[1])):
        for ((inputs,), targets), n in zip(batches, numbers, strict=True):
            np.testing.assert_array_equal(inputs, n * 2)
            np.testing.assert_array_equal(targets, n)
    assert dataset.read == [[0, 3], [1], [2], [4, 5]]
    assert threading.main_thread() not in dataset.threads


def test_what_was_read_ahead_in_vain_changes_nothing():
    with Loader(Watched()) as loader:
        loader.load(STEPS[0], then=STEPS[2])
        ((_, targets), _) = loader.load(STEPS[1])
    np.testing.assert_array_equal(targets, [2])


def test_an_error_is_raised_by_the_call_that_asks_for_it():
    with Loader(Watched()) as loader:
        assert len(loader.load(STEPS[0], then=STEPS[2])) == 2
        with pytest.raises(OSError, match="sample 9 cannot be read"):
            loader.load(STEPS[2])


def test_closing_ends_the_thread():
    dataset = Watched()
    loader = Loader(dataset)
    loader.load(STEPS[0], then=STEPS[1])
    loader.close()
    assert not any(thread.is_alive() for thread in dataset.threads)
