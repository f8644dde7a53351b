"""The manifest: what a checkpoint holds, in which files, and how to tell that they are unhurt.

Invariant: a manifest speaks in global coordinates and knows no layout: a tensor is its shape and the boxes that its parts fill,
disjoint and covering it.  It is written last, so a folder that has one was whole when it was written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mpitrain.checkpoint.boxes import volume
from mpitrain.nn import Box

FORMAT = 1
NAME, DIGEST_NAME = "manifest.json", "manifest.sha256"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Record):
    """The box of a tensor that one file holds, under the tensor's name."""

    file: str
    box: Box


class StoredTensor(_Record):
    """A tensor: its global shape, the name of its dtype, and where its parts are."""

    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Part, ...]

    def is_covered(self) -> bool:
        """Whether the parts are as many elements as the tensor."""
        return sum(volume(part.box) for part in self.parts) == math.prod(self.shape)


class StoredFile(_Record):
    """A file's size in bytes and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Manifest(_Record):
    """All that is known of a checkpoint.  `meta` is whatever the writer wanted to remember, as JSON values."""

    format: int = FORMAT
    step: int
    meta: dict[str, Any]
    tensors: dict[str, StoredTensor]
    files: dict[str, StoredFile]

    def write(self, folder: Path) -> None:
        """Write it into `folder`, with its own digest beside it in the form that `sha256sum -c` reads."""
        text = self.model_dump_json(indent=1).encode()
        (folder / NAME).write_bytes(text)
        (folder / DIGEST_NAME).write_text(f"{hashlib.sha256(text).hexdigest()}  {NAME}\n", encoding="ascii")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in `folder`; `ValueError` if there is none, it is damaged, or of another format."""
        try:
            text, digest = (folder / NAME).read_bytes(), (folder / DIGEST_NAME).read_bytes().split()[:1]
        except OSError as error:
            raise ValueError(
                f"{folder} is not a whole checkpoint ({error}); expected a folder step-N with {NAME} in it"
            ) from error
        if [hashlib.sha256(text).hexdigest().encode()] != digest:
            raise ValueError(
                f"{folder / NAME} is damaged: it does not have the SHA-256 in {DIGEST_NAME}; take another checkpoint"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(
                f"{folder / NAME} is not a manifest of format {FORMAT}, which this version reads: {error}"
            ) from error


def merged(step: int, meta: dict[str, Any], manifests: Sequence[Manifest]) -> Manifest:
    """One manifest of the files that several describe."""
    tensors: dict[str, StoredTensor] = {}
    files: dict[str, StoredFile] = {}
    for manifest in manifests:
        files |= manifest.files
        for name, tensor in manifest.tensors.items():
            known = tensors.get(name, StoredTensor(shape=tensor.shape, dtype=tensor.dtype, parts=()))
            assert (known.shape, known.dtype) == (tensor.shape, tensor.dtype), f"ranks disagree on {name}: {known}, {tensor}"
            tensors[name] = known.model_copy(update={"parts": known.parts + tensor.parts})
    torn = [name for name, tensor in tensors.items() if not tensor.is_covered()]
    assert not torn, f"parts missing or written twice: {torn[:5]}"
    return Manifest(step=step, meta=meta, tensors=tensors, files=files)
