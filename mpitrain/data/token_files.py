"""Token streams from files: raw bytes, `.npy`, and the headerless and headed `.bin` of nanoGPT and llm.c.

Invariant: a file that is empty, cut or of another format is a `ValueError` that says what was found, what was expected and what
to do.  Large files are memory maps, so every rank of a host shares one copy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpitrain.data.npy import map_npy

#: The header of an llm.c file: 256 int32, of which the first three are magic, version and number of tokens.
_HEADER = np.dtype(("<i4", 256))
#: Token types of llm.c by (magic, version): GPT-2's and Llama 3's.
_LLMC: dict[tuple[int, int], np.dtype] = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}


def byte_tokens(*paths: str | Path) -> np.ndarray:
    """The bytes of the files, one after the other, each byte a token: uint8."""
    parts = [np.fromfile(path, np.uint8) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if not len(part):
            raise ValueError(f"{path} is empty; expected text: remove it from the list of files, or fetch it again")
    return np.concatenate(parts)


def npy_tokens(path: str | Path) -> np.ndarray:
    """The 1-D array of integers in a `.npy` file, memory-mapped."""
    tokens = map_npy(path)
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise ValueError(f"{path} holds {tokens.dtype} of shape {tokens.shape}; expected integers in one dim: save it as such")
    return tokens


def nanogpt_tokens(path: str | Path) -> np.ndarray:
    """The uint16 tokens of a nanoGPT `.bin` file, which has no header, memory-mapped."""
    size = _size(path)
    if size % 2:
        raise ValueError(f"{path} has {size} bytes; expected an even number, 2 a token: the file is cut, or not a nanoGPT .bin")
    if size >= 8 and tuple(np.fromfile(path, "<i4", 2).tolist()) in _LLMC:
        raise ValueError(f"{path} begins with llm.c's magic; expected bare uint16 tokens: read it as an llm.c file")
    return np.memmap(path, "<u2", "r")


def llmc_tokens(path: str | Path) -> np.ndarray:
    """The tokens of an llm.c `.bin` file (uint16 for GPT-2, uint32 for Llama 3), memory-mapped."""
    size = _size(path)
    if size < _HEADER.itemsize:
        raise ValueError(f"{path} has {size} bytes; expected {_HEADER.itemsize} of header: the file is cut, or no llm.c .bin")
    magic, version, count = np.fromfile(path, "<i4", 3).tolist()
    if (magic, version) not in _LLMC:
        expected = " or ".join(f"{m} and {v} ({dtype.name})" for (m, v), dtype in _LLMC.items())
        raise ValueError(
            f"{path} begins with magic {magic} and version {version}; expected {expected}: "
            "write it again with llm.c's current script, or read it as the format that it is"
        )
    dtype = _LLMC[magic, version]
    expected_size = _HEADER.itemsize + count * dtype.itemsize
    if count < 1 or size != expected_size:
        raise ValueError(
            f"{path} has {size} bytes and its header promises {count} tokens; expected at least one and {expected_size} bytes: "
            "the file is cut or damaged, fetch it again"
        )
    return np.memmap(path, dtype, "r", offset=_HEADER.itemsize)


def _size(path: str | Path) -> int:
    size = Path(path).stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty; expected tokens: fetch or write it again")
    return size
