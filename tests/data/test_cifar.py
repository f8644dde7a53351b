"""CIFAR-10 batches by the format's own description."""

import numpy as np
import pytest

from mpitrain.data import cifar10_dataset

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
LABELS = np.array([9, 0, 4, 4, 1], np.uint8)


def records(start, stop):
    return b"".join(bytes([LABELS[i]]) + PIXELS[i].tobytes() for i in range(start, stop))


def test_batches_are_joined_in_order(tmp_path):
    (tmp_path / "1").write_bytes(records(0, 3))
    (tmp_path / "2").write_bytes(records(3, 5))
    inputs, targets = cifar10_dataset(tmp_path / "1", tmp_path / "2").batch(np.array([4, 2]))
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, PIXELS[[4, 2]] / 255, rtol=1e-6)  # two roundings of float32
    np.testing.assert_array_equal(targets, [1, 4])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "has 0 bytes; expected a multiple of 3073"),
        (records(0, 2)[:-1], "has 6145 bytes; expected a multiple of 3073"),
        (records(0, 2) + b"\x0a" + bytes(3072), r"label 10 in record 2; expected 0 \.\. 9"),
    ],
)
def test_a_wrong_file_is_an_error(tmp_path, contents, message):
    (tmp_path / "x").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        cifar10_dataset(tmp_path / "x")
