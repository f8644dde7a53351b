"""Memory-mapped `.npy` pairs."""

import numpy as np
import pytest

from mpitrain.data import map_npy, npy_dataset


def test_a_pair_is_a_dataset(tmp_path):
    images, labels = np.arange(24, dtype=np.uint8).reshape(3, 2, 4), np.array([2, 0, 1])
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", labels)
    dataset = npy_dataset(tmp_path / "x.npy", tmp_path / "y.npy", scale=0.5)
    inputs, targets = dataset.batch(np.array([2, 1]))
    np.testing.assert_array_equal(inputs, images[[2, 1]] * 0.5)
    np.testing.assert_array_equal(targets, [1, 0])
    assert not isinstance(inputs, np.memmap)


@pytest.mark.parametrize("keep", [0, 5, 100, 140])
def test_a_cut_file_is_an_error(tmp_path, keep):
    np.save(tmp_path / "x.npy", np.arange(10))
    path = tmp_path / "cut.npy"
    path.write_bytes((tmp_path / "x.npy").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut.npy is no whole .npy file"):
        map_npy(path)
