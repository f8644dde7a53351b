"""Hugging Face folders of GPT-2 and Llama: config.json and safetensors files, read and written without `transformers`.

Invariant: reading makes no array: each parameter's initializer becomes a `Stored`, which reads just the box that a rank asks
for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mpitrain.arrays import Stream, to_host
from mpitrain.checkpoint.families import FAMILIES, HEAD_DIM, Family
from mpitrain.nn import Box, Model, Parameter

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A tensor of a file, and how many rows of the parameter it holds."""

    file: Path
    name: str
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """An initializer that reads a parameter's box from the pieces it lies in, one under the other."""

    pieces: tuple[Piece, ...]
    transposed: bool

    def __call__(self, stream: Stream, shape: tuple[int, ...], box: Box) -> np.ndarray:
        """The values in `box`, in the type that the file has."""
        (start, stop), *others = box
        parts, offset = [], 0
        for piece in self.pieces:
            first, last = max(start - offset, 0), min(stop - offset, piece.rows)
            offset += piece.rows
            if first < last:
                within = [slice(first, last), *(slice(a, b) for a, b in others)]
                with safe_open(piece.file, framework="numpy") as file:
                    part = file.get_slice(piece.name)[tuple(reversed(within) if self.transposed else within)]
                parts.append(part.T if self.transposed else part)
        return np.concatenate(parts)


def from_pretrained(folder: str | Path, **settings: Any) -> Model:
    """The model in a Hugging Face folder of GPT-2 or Llama; its weights are read when it is materialised.

    `settings` are constructor arguments that a folder does not decide, such as `recompute=True`.  The folder's dropout rates
    are not taken over.  `ValueError` names a missing, extra or wrong-shaped tensor and a configuration that has no counterpart.
    """
    folder = Path(folder)
    config = _read_json(folder / CONFIG)
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"{folder / CONFIG} has model_type {model_type!r}; expected one of {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]
    model = family.model(**(_settings(family, config, folder / CONFIG) | settings))
    table, found = family.table(model.settings), _headers(folder, family)
    _check_names(
        folder, {name for tensors in table.values() for name in tensors.names}, set(found), tied=model.settings["tied"]
    )
    for parameter in model.parameters():
        tensors = table[parameter.name]
        pieces = []
        for name, rows in zip(tensors.names, tensors.rows(parameter, model.settings), strict=True):
            file, stored_name, shape = found[name]
            expected = (rows, *parameter.shape[1:])[:: -1 if tensors.transposed else 1]
            if shape != expected:
                raise ValueError(
                    f"{file}: tensor {stored_name} has shape {shape}; expected {expected} from {CONFIG}: "
                    "one of the two belongs to another model"
                )
            pieces.append(Piece(file=file, name=stored_name, rows=rows))
        parameter.init = Stored(pieces=tuple(pieces), transposed=tensors.transposed)
    return model


def save_pretrained(model: Model, folder: str | Path) -> None:
    """Write a model whose arrays are all here as a folder that `transformers` loads (config.json, model.safetensors)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(model, folder)
    save_file(shard_tensors(model, model.parameters()), folder / SINGLE, metadata={"format": "pt"})


def shard_tensors(model: Model, parameters: Iterable[Parameter]) -> dict[str, np.ndarray]:
    """The tensors of a Hugging Face folder that `parameters`, some of the model's and each whole, make.

    So a pipeline stage can write those of its own parameters as one file of a sharded folder, see `write_index`.
    """
    table = FAMILIES[_model_type(model)].table(model.settings)
    shard: dict[str, np.ndarray] = {}
    for parameter in parameters:
        assert parameter.box_shape == parameter.shape, f"{parameter} is only partly here"
        tensors = table[parameter.name]
        ends = np.cumsum(tensors.rows(parameter, model.settings))[:-1]
        for name, part in zip(tensors.names, np.split(to_host(parameter.data), ends), strict=True):
            shard[name] = np.ascontiguousarray(part.T if tensors.transposed else part)
    return shard


def write_index(folder: Path, shards: Mapping[str, Mapping[str, int]]) -> None:
    """Write the index of a sharded folder: for each file's name, its tensors and their sizes in bytes.

    By custom the files are model-00001-of-00002.safetensors and so on; they carry the metadata {"format": "pt"}.
    """
    index = {
        "metadata": {"total_size": sum(sum(sizes.values()) for sizes in shards.values())},
        "weight_map": {name: file for file, sizes in shards.items() for name in sizes},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def write_config(model: Model, folder: Path) -> None:
    """Write the config.json of a model."""
    model_type = _model_type(model)
    family = FAMILIES[model_type]
    config = {theirs: model.settings[ours] for ours, (theirs, _) in family.settings.items()}
    config |= {key: values[0] for key, values in family.fixed.items() if key != HEAD_DIM}
    config |= {"architectures": [family.architecture], "model_type": model_type}
    if "dropout" in model.settings:
        config |= {"resid_pdrop": model.settings["dropout"], "embd_pdrop": model.settings["dropout"], "attn_pdrop": 0.0}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _model_type(model: Model) -> str:
    for model_type, family in FAMILIES.items():
        if type(model) is family.model:
            return model_type
    raise ValueError(f"a {type(model).__name__} has no Hugging Face format here; expected a GPT or a Llama")


def _settings(family: Family, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    config = family.read(config)
    for key, accepted in family.fixed.items():
        if config.get(key, accepted[0]) not in accepted:
            raise ValueError(
                f"{path} has {key} = {config[key]!r}; expected {' or '.join(map(repr, accepted))}: "
                f"{family.model.__name__} has no other form, so this model cannot be loaded"
            )
    return {ours: config.get(theirs, default) for ours, (theirs, default) in family.settings.items()}


def _headers(folder: Path, family: Family) -> dict[str, tuple[Path, str, tuple[int, ...]]]:
    """For each weight of a folder, under its full name: the file that holds it, its name there, its shape."""
    index = folder / INDEX
    files = sorted(set(_read_json(index)["weight_map"].values())) if index.exists() else [SINGLE]
    found = {}
    for path in (folder / name for name in files):
        if not path.exists():
            raise ValueError(f"{path} is missing; expected the file {SINGLE}, or {INDEX} and every file that it names")
        try:
            with safe_open(path, framework="numpy") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise ValueError(f"{path} is cut or no safetensors file ({error}); copy or download it again") from error
        for name, shape in shapes.items():
            if not name.endswith(family.ignored):
                whole = name if name.startswith((family.prefix, "lm_head.")) else family.prefix + name
                found[whole] = (path, name, shape)
    return found


def _check_names(folder: Path, wanted: set[str], found: set[str], *, tied: object) -> None:
    """A tied output weight may be stored once more; all else must be there exactly."""
    missing, extra = sorted(wanted - found), sorted(found - wanted - ({"lm_head.weight"} if tied else set()))
    if missing or extra:
        raise ValueError(
            f"{folder}: the tensors are not those that {CONFIG} calls for: "
            f"missing {missing[:5] or 'none'}, not expected {extra[:5] or 'none'} "
            f"({len(missing)} and {len(extra)} in all); use the {CONFIG} that was written with these files"
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path} is missing; expected a folder with {CONFIG} and {SINGLE}, as `save_pretrained` writes")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON object ({error}); copy or download it again") from error
