"""What tells datasets apart."""

import numpy as np
import pytest

from mpitrain.data import ArrayDataset, Subset, TokenDataset, identity


class Asked(ArrayDataset):
    """Knows which samples were asked for."""

    asked = ()

    def batch(self, numbers):
        self.asked += tuple(numbers)
        return super().batch(numbers)


def arrays(count=1000, **settings):
    inputs = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    return Asked(inputs, np.arange(count), **settings)


def test_a_few_samples_from_the_first_to_the_last_are_read():
    data = arrays()
    identity(data)
    assert len(data.asked) == 8
    assert (data.asked[0], data.asked[-1]) == (0, 999)


def test_the_same_data_have_the_same_identity_wherever_they_lie(tmp_path):
    data = arrays()
    np.save(tmp_path / "inputs.npy", data.inputs)
    mapped = ArrayDataset(np.load(tmp_path / "inputs.npy", mmap_mode="r"), data.targets)
    assert identity(mapped) == identity(data) == identity(Subset(data, 0, 1000))


def other(change):
    data = arrays()
    change(data)
    return data


OTHER = {
    "more": arrays(1001),
    "scaled": arrays(scale=2.0),
    "shifted": Subset(arrays(1001), 1, 1001),
    "last sample": other(lambda data: data.inputs.__setitem__((999, 0), 7)),
    "first target": other(lambda data: data.targets.__setitem__(0, 7)),
    "type": ArrayDataset(arrays().inputs, np.arange(1000, dtype=np.int32)),
}


@pytest.mark.parametrize("data", OTHER.values(), ids=OTHER)
def test_other_data_have_another(data):
    assert identity(data) != identity(arrays())


def test_another_context_makes_other_samples():
    tokens = np.arange(65, dtype=np.uint8)
    assert identity(TokenDataset(tokens, 8)).samples == 8
    assert identity(TokenDataset(tokens, 8)) != identity(TokenDataset(tokens, 16))
