"""IDX files by the format's own description, and every way in which one can be wrong."""

import gzip
import struct

import numpy as np
import pytest

from mpitrain.data import idx_dataset, read_idx


def idx(array, code, dtype):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.astype(dtype).tobytes()


IMAGES = np.arange(2 * 3 * 4).reshape(2, 3, 4)
WHOLE = idx(IMAGES, 8, ">u1")
TYPES = [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]


@pytest.mark.parametrize(("code", "dtype"), TYPES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_type_is_read(tmp_path, code, dtype, pack):
    (tmp_path / "x").write_bytes(pack(idx(IMAGES, code, dtype)))
    array = read_idx(tmp_path / "x")
    np.testing.assert_array_equal(array, IMAGES)
    assert array.dtype == np.dtype(dtype).newbyteorder("=")


def test_images_and_labels_are_a_dataset(tmp_path):
    (tmp_path / "images").write_bytes(WHOLE)
    (tmp_path / "labels").write_bytes(idx(np.array([9, 3]), 8, ">u1"))
    inputs, targets = idx_dataset(tmp_path / "images", tmp_path / "labels").batch(np.array([1]))
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, IMAGES[1][None, None] / 255, rtol=1e-6)  # two roundings of float32
    np.testing.assert_array_equal(targets, [3])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "begins with nothing; expected an IDX file"),
        (b"\x89PNG....", "begins with 89 50 4e 47; expected an IDX file"),
        (b"\0\0\x0a\x01" + bytes(4), "begins with 00 00 0a 01; expected an IDX file"),
        (WHOLE[:9], r"has 9 bytes; expected at least 16"),
        (WHOLE[:-1], r"has 39 bytes; expected 40 for its header's dims \(2, 3, 4\)"),
        (WHOLE + b"x", r"has 41 bytes; expected 40"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "damaged gzip file"),
        (gzip.compress(WHOLE, mtime=0)[:-8] + bytes(8), "damaged gzip file"),
    ],
)
def test_a_wrong_file_is_an_error(tmp_path, contents, message):
    (tmp_path / "x").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "x")
