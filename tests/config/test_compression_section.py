"""Each kind of `[compression]` builds its compressor, with the compressor's own defaults."""

import pytest
from pydantic import TypeAdapter

from mpitrain import parallel
from mpitrain.config.compression import CompressionSection

KINDS = {
    "cast": ({"dtype": "float16"}, parallel.Cast),
    "powersgd": ({"rank": 2, "warmup": 5, "seed": 1}, parallel.PowerSGD),
    "topk": ({"density": 0.5, "error_feedback": False}, parallel.TopK),
    "dgc": ({"density": 0.5, "momentum": 0.5, "clip": 2.0, "warmup": 4}, parallel.DGC),
    "sign": ({}, parallel.Sign),
    "randomk": ({"density": 0.5, "error_feedback": False, "seed": 3}, parallel.RandomK),
    "ef21": ({"density": 0.5}, parallel.EF21),
}


def build(values):
    return TypeAdapter(CompressionSection).validate_python(values).build()


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressor_has_its_settings(kind):
    values, expected = KINDS[kind]
    assert build({"kind": kind, **values}) == expected(**values)
    assert build({"kind": kind}) == expected()


def test_none_is_none():
    assert build({"kind": "none"}) is None


def test_every_compressor_has_a_kind():
    public = {getattr(parallel, name) for name in parallel.__all__}
    compressors = {x for x in public if isinstance(x, type) and issubclass(x, parallel.Compressor)} - {parallel.Compressor}
    assert {expected for _, expected in KINDS.values()} == compressors
