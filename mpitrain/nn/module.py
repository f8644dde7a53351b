"""`Module`: a function of one tensor with parameters, found by walking its attributes.

Invariant: a module is its attributes.  There is no registry and no base-class `__init__` to call: every `Parameter` or `Module`
that is an attribute is part of it, under the attribute's name; so is every one in a list, tuple or dict that is an attribute,
under `name.0`, `name.key`, however deep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mpitrain.arrays import Arrays, namespace
from mpitrain.autograd import Tensor
from mpitrain.nn.parameter import Parameter


class NotFiniteError(ArithmeticError):
    """A number that training depends on is infinite or not a number."""


class Module:
    """A layer: `forward` maps a tensor to a tensor; dim 0 of both counts the samples of the microbatch.

    A layer of a model may take and give a tuple of tensors instead; integers among them have no gradient.
    """

    #: Path from the model's root, set by `Model`.
    name: str = ""

    def forward(self, x: Any) -> Any:
        """The layer's output for `x`."""
        raise NotImplementedError(f"{type(self).__name__} must define forward()")

    def __call__(self, x: Any) -> Any:
        """`forward`, and in a checking pass a look at whether what came out is finite where what went in was."""
        y = self.forward(x)
        first = x[0] if isinstance(x, (list, tuple)) else x
        if first.context.check and not _finite(y) and _finite(x):
            raise NotFiniteError(f"the output of module {self.name or '(root)'} ({type(self).__name__}) is not finite")
        return y

    def children(self) -> Iterator[tuple[str, Module | Parameter]]:
        """The direct parts, each with its name, in the order in which they were assigned.

        `ValueError` if one is in a set, which has no order, or under a key of a dict that cannot be part of a name.
        """
        for key, value in vars(self).items():
            yield from _parts(key, value, self)

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and every one inside it, each with its path, from the outside in."""
        yield prefix, self
        for key, child in self.children():
            if isinstance(child, Module):
                yield from child.modules(f"{prefix}.{key}" if prefix else key)

    def parameters(self) -> list[Parameter]:
        """Every parameter once, in order, however many modules share it."""
        found = {id(p): p for _, module in self.modules() for _, p in module.children() if isinstance(p, Parameter)}
        return list(found.values())

    @property
    def size(self) -> int:
        """Number of elements of all parameters."""
        return sum(p.size for p in self.parameters())

    def materialize(self, arrays: Arrays, dtype: np.dtype, *, seed: int = 0) -> None:
        """Create the arrays of all parameters."""
        for parameter in self.parameters():
            parameter.materialize(arrays, dtype, seed)


def set_names(root: Module) -> None:
    """Give every module and parameter its path from `root`; a shared parameter keeps the first."""
    named: set[int] = set()
    for path, module in root.modules():
        module.name = path
        for key, child in module.children():
            if isinstance(child, Parameter) and id(child) not in named:
                child.name = f"{path}.{key}" if path else key
                named.add(id(child))


def _parts(name: str, value: object, owner: Module) -> Iterator[tuple[str, Module | Parameter]]:
    """The modules and parameters in the attribute `value` of `owner`."""
    if isinstance(value, (Module, Parameter)):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _parts(f"{name}.{i}", item, owner)
    elif isinstance(value, dict):
        for key, item in value.items():
            for found, part in _parts(f"{name}.{key}", item, owner):
                if not isinstance(key, str) or not key or "." in key:
                    raise ValueError(
                        f"{name} of {type(owner).__name__} is a dict with {type(part).__name__} under the key {key!r}; "
                        "expected keys that are text without a dot: they become part of the names of parameters"
                    )
                yield found, part
    elif isinstance(value, (set, frozenset)) and any(isinstance(item, (Module, Parameter)) for item in value):
        raise ValueError(
            f"{name} of {type(owner).__name__} is a set of modules or parameters, which has no order; expected a list, a tuple "
            "or a dict"
        )


def _finite(x: Tensor | Sequence[Tensor]) -> bool:
    if not isinstance(x, Tensor):
        return all(map(_finite, x))
    xp = namespace(x.data)
    return x.data.dtype.kind in "iub" or bool(xp.isfinite(x.data).all())
