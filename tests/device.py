"""A stand-in for CuPy: arrays that lie where NumPy cannot reach them, so that what runs on a GPU can be tried without one.

An array is a wrapper and no subclass, so NumPy refuses it as it refuses CuPy's; `WAITS` counts what would wait for the device.
"""

from __future__ import annotations

import operator
import sys
from types import ModuleType

import numpy as np

WAITS: list[str] = []


def inside(x):
    """The NumPy array in a wrapped one, and in lists of them; other things as they are."""
    if isinstance(x, DeviceArray):
        return x.a
    if isinstance(x, np.ndarray) and x.ndim:
        raise TypeError("a host array is given to a device function")
    return type(x)(map(inside, x)) if type(x) in (list, tuple) else x


def wrapped(x):
    if isinstance(x, (np.ndarray, np.generic)):
        return DeviceArray(np.asarray(x))
    return type(x)(map(wrapped, x)) if type(x) in (list, tuple) else x


def lifted(function):
    def call(*args, **kwargs):
        result = function(*map(inside, args), **{key: inside(value) for key, value in kwargs.items()})
        return kwargs["out"] if isinstance(kwargs.get("out"), DeviceArray) else wrapped(result)

    for name in ("at", "reduceat"):
        if hasattr(function, name):
            setattr(call, name, lifted(getattr(function, name)))
    return call


class DeviceArray:
    __slots__ = ("a",)
    __hash__ = None

    def __init__(self, a):
        self.a = a

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.a, name)
        return lifted(found) if callable(found) else wrapped(found) if isinstance(found, np.ndarray) else found

    def get(self):
        WAITS.append("get")
        return self.a.copy()

    def __bool__(self):
        WAITS.append("bool")
        return bool(self.a)

    def __float__(self):
        WAITS.append("float")
        return float(self.a)

    def __len__(self):
        return len(self.a)

    def __getitem__(self, key):
        return wrapped(self.a[inside(key)])

    def __setitem__(self, key, value):
        self.a[inside(key)] = inside(value)


def _operator(name):
    function = getattr(operator, name)
    swapped = lifted(lambda x, y: function(y, x))

    def in_place(x, y):
        x.a = getattr(operator, f"i{name.strip('_')}")(x.a, inside(y))
        return x

    return lifted(function), swapped, in_place


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_"):
    for _prefix, _function in zip(("", "r", "i"), _operator(_name), strict=True):
        setattr(DeviceArray, f"__{_prefix}{_name.strip('_')}__", _function)
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "invert"):
    setattr(DeviceArray, f"__{_name}__", lifted(getattr(operator, _name)))


class _Library(ModuleType):
    """NumPy's functions for these arrays; `asarray` brings a host array there."""

    ndarray = DeviceArray

    def __getattr__(self, name):
        found = getattr(np, name)
        return lifted(found) if callable(found) and not isinstance(found, type) else found

    def asarray(self, x, dtype=None):
        return wrapped(np.array(x if isinstance(x, np.ndarray) else inside(x), dtype))


DEVICE = _Library("standin")
DEVICE.lib = ModuleType("standin.lib")
DEVICE.lib.stride_tricks = ModuleType("standin.lib.stride_tricks")
DEVICE.lib.stride_tricks.as_strided = lambda x, shape, strides: wrapped(np.lib.stride_tricks.as_strided(x.a, shape, strides))
DeviceArray.__module__ = "standin"
sys.modules["standin"] = DEVICE
