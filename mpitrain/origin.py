"""The origin of a checkpoint: the model, the data and the settings of the run that wrote it, and how another run differs.

Invariant: nothing changes between a run and one that goes on from it without a word; what makes another function of the model,
or another order of the samples, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from mpitrain.worker import Worker

#: Settings of a model that change what it costs, how it is trained, or what it is called, and not its function.
_NO_FUNCTION = frozenset(["kind", "recompute", "dropout"])


def origin(worker: Worker) -> dict[str, Any]:
    """What a checkpoint remembers of the run that writes it, as JSON values."""
    settings = {f.name: getattr(worker.settings, f.name) for f in fields(worker.settings)}
    described = {
        "model": {"kind": type(worker.model).__name__, **worker.model.settings},
        "data": asdict(worker.identity),
        "layout": asdict(worker.place.layout),
        "optimizer": worker.optimizer,
        "settings": settings,
    }
    return {section: _plain(value) for section, value in described.items()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, restart_data: bool = False) -> list[str]:
    """A line for each thing that is another one `now` than `before`; of sections that `before` lacks, none.

    `ValueError` if the model would be another function, or, unless `restart_data`, if the dataset has another size.
    """
    _check_model(before.get("model", {}), now["model"])
    if not restart_data:
        _check_size(before.get("data", {}), now["data"])
    found = []
    for section in now.keys() & before.keys():
        old, new = (dict(_flat(section, values[section])) for values in (before, now))
        found += [
            f"{name} was {old.get(name, 'not set')}, is {new.get(name, 'not set')}"
            for name in old | new
            if old.get(name) != new.get(name)
        ]
    return sorted(found)


def _check_model(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted(now.keys() & before.keys() - _NO_FUNCTION):
        if before[name] != now[name]:
            raise ValueError(
                f"the model had {name} = {before[name]} and has {name} = {now[name]}, which is another function of the same "
                f"weights; build it with {name} = {before[name]}, or start a new run"
            )


def _check_size(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before.get("samples", now["samples"]) != now["samples"]:
        raise ValueError(
            f"the dataset had {before['samples']} samples and has {now['samples']}, so their order is another one: some that "
            "were read would come again, and others not at all; give the data that the run began with, or read these from "
            "their start, by resume(..., restart_data=True) or --restart-data"
        )


def _plain(value: Any) -> Any:
    """`value` as JSON has it, settings and functions by their names."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.generic() | np.ndarray():
            return value.tolist()
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case partial():
            return {"kind": _plain(value.func), **_plain(value.keywords)}
    if is_dataclass(value):
        return {"kind": type(value).__name__} | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return getattr(value, "__qualname__", type(value).__name__)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values inside of `value` that are no mappings, with their paths; not those that are not set."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    elif value is not None:
        yield name, value
