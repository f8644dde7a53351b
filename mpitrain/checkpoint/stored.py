"""The weights of a Hugging Face folder: the files that hold them, where each tensor lies, and initializers that read it.

Invariant: opening a folder reads headers; weights are read by a `Stored`, and then just the box that a rank asks for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mpitrain.arrays import BFLOAT16, Stream
from mpitrain.nn import Box
from mpitrain.text import read_text

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

#: Types that tensors are stored in, by their names in a file.
FLOATS = {"F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": BFLOAT16}
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A tensor of a file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, *within: slice) -> np.ndarray:
        """The part `within` of it, in the type that the file has."""
        with safe_open(self.file, framework="numpy") as file:
            return file.get_slice(self.name)[within]

    def equals(self, other: Held) -> bool:
        """Whether both hold the same numbers; they are compared block by block."""
        rows = max(1, _BLOCK // max(1, math.prod(self.shape[1:])))
        blocks = (slice(start, min(start + rows, self.shape[0])) for start in range(0, self.shape[0], rows))
        return self.shape == other.shape and all(np.array_equal(self.read(block), other.read(block)) for block in blocks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A tensor, and how many rows of a parameter it holds."""

    held: Held
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """An initializer that reads a parameter's box from the pieces it lies in, one under the other.

    Pieces of several types are joined in the smallest that holds the numbers of all, float32 or float64.
    """

    pieces: tuple[Piece, ...]
    transposed: bool

    def __call__(self, stream: Stream, shape: tuple[int, ...], box: Box) -> np.ndarray:
        """The values in `box`."""
        (start, stop), *others = box
        types = {piece.held.dtype for piece in self.pieces}
        dtype = types.pop() if len(types) == 1 else np.dtype(f"f{max(4, *(dtype.itemsize for dtype in types))}")
        values, offset = np.empty([stop - start for start, stop in box], dtype), 0
        for piece in self.pieces:
            first, last = max(start - offset, 0), min(stop - offset, piece.rows)
            if first < last:
                within = [slice(first, last), *(slice(a, b) for a, b in others)]
                part = piece.held.read(*(reversed(within) if self.transposed else within))
                values[first + offset - start : last + offset - start] = part.T if self.transposed else part
            offset += piece.rows
        return values


def weights(folder: Path, config: Mapping[str, Any], *, ignored: tuple[str, ...]) -> Iterator[Held]:
    """Every tensor of a folder that `transformers` would read, except those whose names end with one of `ignored`.

    `ValueError` for a file that is missing or damaged, and for a tensor that is not stored as floats.
    """
    for path in _files(folder, config):
        try:
            with safe_open(path, framework="numpy") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                headers = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        except SafetensorError as error:
            raise ValueError(f"{path} is cut or no safetensors file ({error}); copy or download it again") from error
        for name, (shape, dtype) in headers.items():
            if name.endswith(ignored):
                continue
            if dtype not in FLOATS:
                raise ValueError(
                    f"{path}: tensor {name} is stored as {dtype}; expected {', '.join(FLOATS)}: quantized weights are not "
                    "read, save the model in bfloat16 with the library that quantized it"
                )
            yield Held(file=path, name=name, shape=shape, dtype=FLOATS[dtype])


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; `ValueError` if there is none."""
    if not path.exists():
        raise ValueError(f"{path} is missing; expected a folder with {CONFIG} and {SINGLE}, as `save_pretrained` writes")
    try:
        return dict(json.loads(read_text(path)))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON object ({error}); copy or download it again") from error


def _files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files with weights, chosen as `transformers` 5 does: the one that config.json names, the single file, the index."""
    named = config.get("transformers_weights")
    path = next((folder / name for name in ([named] if named else [SINGLE, INDEX]) if (folder / name).exists()), None)
    if path is None:
        others = sorted(other.name for suffix in ("*.bin", "*.gguf", "*.pth") for other in folder.glob(suffix))
        raise ValueError(
            f"{folder / (named or SINGLE)} is missing"
            + (f"; there is {', '.join(others)}, which is not read" if others else "")
            + f"; expected the file {named or SINGLE}, or {INDEX} and every file that it names: `save_pretrained` of "
            "`transformers` writes them"
        )
    if not path.name.endswith(".index.json"):
        return [path]
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict):
        raise ValueError(f"{path} has no weight_map from tensors to files; copy or download it again")
    paths = [folder / name for name in sorted(set(files.values()))]
    for shard in paths:
        if not shard.exists():
            raise ValueError(f"{shard} is missing; expected every file that {path.name} names: copy or download it again")
    return paths
