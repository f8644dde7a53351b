"""IDX files, the format of MNIST (LeCun, Cortes and Burges, "The MNIST database", section on file formats), plain or gzipped.

Invariant: magic, dims and exact length are checked before an array is made.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from mpitrain.data.dataset import ArrayDataset

#: Element types by the third byte of the file, all big-endian.
_TYPES = {code: np.dtype(name) for code, name in {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}.items()}


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, in the machine's byte order.  `ValueError` if the file is empty, cut or something else."""
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}); expected a whole one: fetch it again") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES:
        raise ValueError(
            f"{path} begins with {data[:4].hex(' ') or 'nothing'}; expected an IDX file: 00 00, a type (08 for bytes), "
            "a number of dims.  Fetch it again, or check which file this is"
        )
    dtype, ndim = _TYPES[data[2]], data[3]
    start = 4 + 4 * ndim
    if len(data) < start:
        raise ValueError(f"{path} has {len(data)} bytes; expected at least {start} for its header: it is cut, fetch it again")
    shape = struct.unpack_from(f">{ndim}I", data, 4)
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(
            f"{path} has {len(data)} bytes; expected {expected} for its header's dims {shape}: "
            "the file is cut or damaged, fetch it again"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def idx_dataset(images: str | Path, labels: str | Path) -> ArrayDataset:
    """MNIST's pair of files: images (n, 1, height, width) as float32 in [0, 1], labels int64."""
    return ArrayDataset(read_idx(images)[:, None], read_idx(labels).astype(np.int64), scale=1 / 255)
