"""Hugging Face folders of GPT-2, Llama and its relatives: config.json and safetensors files, read without `transformers`.

Invariant: reading makes no array: each parameter's initializer becomes a `Stored`, which reads just the box that a rank asks
for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpitrain.checkpoint.families import FAMILIES, Family
from mpitrain.checkpoint.stored import CONFIG, SINGLE, Held, Piece, Stored, read_json, weights
from mpitrain.nn import Model, Source


def from_pretrained(folder: str | Path, **settings: Any) -> Model:
    """The model in a Hugging Face folder; its weights are read when it is materialised.

    `settings` are constructor arguments in place of the folder's, such as `recompute=True`.  Dropout is off unless one of them
    says otherwise; `unused_dropout` tells the folder's rates.  `ValueError` names a key of config.json that has no counterpart
    or of which nothing is known, and a missing, extra, doubled or wrong-shaped tensor.
    """
    folder = Path(folder)
    config = _read_config(folder)
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"{folder / CONFIG} has model_type {model_type!r}; expected one of {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]
    unknown = sorted(settings.keys() - inspect.signature(family.model).parameters.keys())
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no setting of a {family.model.__name__}, which {folder} is; leave it out")
    try:
        model = family.model(**(family.arguments(config) | settings))
        family.unused_dropout(model.settings, config)  # refuses what is no rate
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    model.source = Source(folder=str(folder.resolve()), config=config)
    table, found = family.table(model), _tensors(folder, config, family, tied=bool(model.settings["tied"]))
    _check_names(folder, {name for tensors in table.values() for name in tensors.names}, set(found))
    for parameter in model.parameters():
        tensors = table[parameter.name]
        pieces = []
        for name, rows in zip(tensors.names, tensors.rows(parameter, model.settings), strict=True):
            held = found[name]
            expected = (rows, *parameter.shape[1:])[:: -1 if tensors.transposed else 1]
            if held.shape != expected:
                raise ValueError(
                    f"{held.file}: tensor {held.name} has shape {held.shape}; expected {expected} from {CONFIG}: "
                    "one of the two belongs to another model"
                )
            pieces.append(Piece(held=held, rows=rows))
        parameter.init = Stored(pieces=tuple(pieces), transposed=tensors.transposed)
    return model


def unused_dropout(model: Model) -> dict[str, float]:
    """The dropout rates above 0, by key, of the folder that a model was read from, that it trains without."""
    return {} if model.source is None else family_of(model).unused_dropout(model.settings, model.source.config)


def family_of(model: Model) -> Family:
    """The family that a model was read from, or else the first that can hold it; `ValueError` says why none can."""
    if model.source is not None:
        return FAMILIES[model.source.config["model_type"]]
    refusals = []
    for family in FAMILIES.values():
        if type(model) is family.model:
            try:
                family.config(model.settings, {})
                family.table(model)
            except ValueError as error:
                refusals.append(f"{family.model_type}: {error}")
            else:
                return family
    reason = "; ".join(refusals) or "expected a GPT or a Llama"
    raise ValueError(f"a {type(model).__name__} has no Hugging Face format here ({reason})")


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder}; expected one with {CONFIG} and {SINGLE}: if this is a model's name on a hub, "
            f"download it first, as in `hf download {folder} --local-dir FOLDER`"
        )
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder / 'adapter_config.json'}: the folder holds an adapter, which changes another model's weights; "
            "expected whole weights: merge the adapter into them first"
        )
    return read_json(folder / CONFIG)


def _tensors(folder: Path, config: Mapping[str, Any], family: Family, *, tied: bool) -> dict[str, Held]:
    """Each weight of a folder under its full name; of a tied output weight and the embedding, the one that is stored."""
    found: dict[str, Held] = {}
    embedding, output = family.tied
    for held in weights(folder, config, ignored=family.ignored):
        name = held.name if held.name.startswith((family.prefix, output)) else family.prefix + held.name
        if name in found:
            raise ValueError(
                f"{name} is stored twice, as {found[name].name} in {found[name].file} and as {held.name} in {held.file}; "
                "expected one tensor: delete the file that does not belong here"
            )
        found[name] = held
    if tied and output in found:
        stored = found.pop(output)
        if not found.setdefault(embedding, stored).equals(stored):
            raise ValueError(
                f"{folder}: {CONFIG} ties the output weight to the embedding, and {output} is stored with other numbers than "
                f'{embedding}; expected equal ones: write "tie_word_embeddings": false in {CONFIG} to keep both, or delete '
                "the tensor"
            )
    return found


def _check_names(folder: Path, wanted: set[str], found: set[str]) -> None:
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        raise ValueError(
            f"{folder}: the tensors are not those that {CONFIG} calls for: "
            f"missing {missing[:5] or 'none'}, not expected {extra[:5] or 'none'} "
            f"({len(missing)} and {len(extra)} in all); use the {CONFIG} that was written with these files"
        )
