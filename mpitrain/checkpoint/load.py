"""`Checkpoint`: any box of any tensor of a checkpoint, whatever layout wrote it.

Invariant: reading needs no other rank and touches only the files that hold a part of what is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mpitrain.arrays import FLOATS
from mpitrain.checkpoint.agree import first_failure
from mpitrain.checkpoint.boxes import overlap, slices
from mpitrain.checkpoint.manifest import Manifest
from mpitrain.comm import Communicator
from mpitrain.nn import Box, Parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """The checkpoint in the folder `path`; `ValueError` if it is none, or a file of it is missing or cut."""
        checkpoint = cls(path=Path(path), manifest=Manifest.read(Path(path)))
        for name in checkpoint.manifest.files:
            if (damage := checkpoint.damage(name, deep=False)) is not None:
                raise ValueError(damage)
        return checkpoint

    @property
    def meta(self) -> dict[str, Any]:
        """What the writer wanted to remember."""
        return self.manifest.meta

    def verify(self, comm: Communicator) -> None:
        """Look at every byte, the ranks sharing the files.  `ValueError` on every rank if one has changed.  Collective."""
        failure = next(filter(None, map(self.damage, sorted(self.manifest.files)[comm.rank :: comm.size])), None)
        if (first := first_failure(comm, failure)) is not None:
            raise ValueError(first.partition(": ")[2])

    def check(self, parameters: Iterable[Parameter]) -> None:
        """`ValueError` unless the checkpoint's weights are those of a model with these `parameters`, by name and shape."""
        expected = {p.name: p.shape for p in parameters}
        found = {name: t.shape for name, t in self.manifest.tensors.items() if not is_slot(name)}
        differences = {
            "missing from it": [f"{name} {expected[name]}" for name in expected if name not in found],
            "in it and not in the model": [f"{name} {found[name]}" for name in found if name not in expected],
            "of another shape": [
                f"{name} {found[name]}, expected {expected[name]}"
                for name in expected
                if name in found and found[name] != expected[name]
            ],
        }
        if any(differences.values()):
            what = "; ".join(f"{len(items)} {kind}: {_few(items)}" for kind, items in differences.items() if items)
            raise ValueError(
                f"checkpoint {self.path} is of another model: of {len(expected)} parameters, {what}. "
                "Build the model with the settings that it was written with (`meta` in its manifest.json), or start afresh"
            )

    def files_of(self, name: str, box: Box) -> set[str]:
        """The files that hold the part `box` of the tensor `name`; none if there is no such tensor."""
        parts = self.manifest.tensors[name].parts if name in self.manifest.tensors else ()
        return {p.file for p in parts if all(max(a, c) < min(b, d) for (a, b), (c, d) in zip(box, p.box, strict=True))}

    def read(self, name: str, box: Box) -> np.ndarray:
        """The part `box` of the tensor `name`, in the dtype that it was stored in.

        `ValueError` if there is no such tensor: an optimizer's array is missing where another optimizer wrote the checkpoint.
        """
        stored = self.manifest.tensors.get(name)
        if stored is None:
            slots = sorted({n.partition("/")[0] for n in self.manifest.tensors if is_slot(n)})
            raise ValueError(
                f"checkpoint {self.path} holds no {name!r}; its optimizer's arrays are {', '.join(slots) or 'none'}. "
                "Resume with the optimizer that wrote it, or start afresh"
            )
        out = np.empty([stop - start for start, stop in box], FLOATS.get(stored.dtype, stored.dtype))
        for part in stored.parts:
            if (common := overlap(box, part.box)) is not None:
                out[slices(common, box)] = self._piece(part.file, name, slices(common, part.box))
        return out

    def _piece(self, file: str, name: str, where: tuple[slice, ...]) -> np.ndarray:
        try:
            with safe_open(self.path / file, framework="numpy") as opened:
                return np.asarray(opened.get_slice(name)[where] if where else opened.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"checkpoint file {self.path / file} cannot be read ({error}); {_INSTEAD}") from error

    def damage(self, name: str, *, deep: bool = True) -> str | None:
        """What is wrong with a file, if anything; unless `deep`, only its size is looked at."""
        path, stored = self.path / name, self.manifest.files[name]
        size = path.stat().st_size if path.exists() else None
        if size != stored.size:
            found = "it is missing" if size is None else f"it has {size} bytes"
            return f"checkpoint file {path} is damaged: {found}, expected {stored.size} bytes; {_INSTEAD}"
        if not deep:
            return None
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"checkpoint file {path} cannot be read ({error}); {_INSTEAD}"
        if digest == stored.sha256:
            return None
        return f"checkpoint file {path} is damaged: its SHA-256 is {digest}, expected {stored.sha256}; {_INSTEAD}"


_INSTEAD = "bring back a copy of it, or resume from another checkpoint"


def is_slot(name: str) -> bool:
    """Whether a tensor is an optimizer's, `<slot>/<parameter>`, and not a weight."""
    return "/" in name


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
