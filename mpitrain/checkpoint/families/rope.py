"""The spellings of rotary positions in a config.json, brought to one: `rope_theta`, and `rope_scaling` with its `rope_type`.

Invariant: what comes out means the same to `transformers`.  It knows the keys of its version 5 (`rope_parameters`) and those
of older ones; each says what the other leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Spellings of our keys; `original_max_position_embeddings` beside the others counts for these types.
_TYPES = {"su": "longrope"}
_WITH_ORIGINAL = ("llama3", "yarn", "longrope")
_ORIGINAL, _PART = "original_max_position_embeddings", "partial_rotary_factor"


def read(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`config` with `rope_theta` and, unless positions are unscaled, `rope_scaling`, in place of what says the same.

    `ValueError` for two spellings that contradict each other.
    """
    given, others = _gathered(config)
    return _told(given, others, others.pop(_ORIGINAL, None))


def read_phi3(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """As `read`; "yarn" is an older name of "longrope", and a part of a head may turn."""
    given, others = _gathered(config)
    if given["rope_type"] == "yarn":
        given["rope_type"] = "longrope"
    if _PART in others:
        given[_PART] = others.pop(_PART)
    return _told(given, others, others.pop(_ORIGINAL, 4096))


def write_phi3(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `read_phi3` reads back: that family has two of the keys outside of `rope_scaling`."""
    scaling = dict(config["rope_scaling"] or {})
    outside = {name: scaling.pop(name) for name in (_ORIGINAL, _PART) if name in scaling}
    return {**config, "rope_scaling": scaling if scaling.get("rope_type", "default") != "default" else None, **outside}


def _gathered(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a config says of the scaling, `rope_type` included, and everything else."""
    others = dict(config)
    older, newer = (others.pop(name, None) or {} for name in ("rope_scaling", "rope_parameters"))
    if not isinstance(older, dict) or not isinstance(newer, dict):
        raise ValueError(f"rope_scaling or rope_parameters is {older or newer!r}; expected an object or null")
    if older and newer and older != newer:
        raise ValueError(
            f"rope_scaling = {older!r} and rope_parameters = {newer!r}, two names of one thing; expected one of them"
        )
    given = dict(older or newer)
    kind = given.pop("type", None)
    given.setdefault("rope_type", "default" if kind is None else kind)
    if kind not in (None, given["rope_type"]):
        raise ValueError(f"type = {kind!r} and rope_type = {given['rope_type']!r}, two names of one thing; expected one")
    given["rope_type"] = _TYPES.get(given["rope_type"], given["rope_type"])
    for name in ("rope_theta", _PART):
        if name in given:
            others[name] = given.pop(name)
    if others.get(_PART) in (None, 1.0):
        others.pop(_PART, None)
    return given, others


def _told(given: dict[str, Any], others: dict[str, Any], original: float | None) -> dict[str, Any]:
    if original is not None and given["rope_type"] in _WITH_ORIGINAL:
        given[_ORIGINAL] = original
    return others if given == {"rope_type": "default"} else others | {"rope_scaling": given}
