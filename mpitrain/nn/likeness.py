"""`likeness`: what a module is, but for its name and the values of its parameters.

Invariant: two modules of one likeness do the same work on inputs of one shape and dtype, so that it need be measured only once;
where that cannot be seen, they are unlike.
"""

from __future__ import annotations

from collections.abc import Hashable

from mpitrain.nn.module import Module
from mpitrain.nn.parameter import Parameter


def likeness(module: Module) -> tuple[object, ...]:
    """A value that is equal for modules that are alike."""
    return tuple((path, type(part), *_settings(part)) for path, part in module.modules())


def _settings(module: Module) -> list[tuple[object, ...]]:
    """What the attributes of a module say, its name aside; inner modules speak for themselves."""
    return [(key, _said(value)) for key, value in vars(module).items() if key != "name"]


def _said(value: object) -> object:
    if isinstance(value, Parameter):
        return value.shape, value.trained
    if isinstance(value, Module):
        return type(value)
    if isinstance(value, (list, tuple)):
        return type(value), *map(_said, value)
    if isinstance(value, dict):
        return dict, *((_said(key), _said(item)) for key, item in value.items())
    return value if isinstance(value, Hashable) else object()  # like nothing else
