"""`Model`: a list of layers that can be cut between any two, and the loss that follows the last one.

Invariant: the model's function is its layers in order, one tensor passed on; a parameter that two layers share has one name,
so that the pieces of a cut model can find each other's copies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mpitrain.arrays import Array
from mpitrain.autograd import Tensor
from mpitrain.nn.module import Module, set_names
from mpitrain.nn.parameter import Parameter, Statistic


class Loss(Protocol):
    """What training makes small: a sum over counted targets, so that means over any split of a batch come out alike."""

    def __call__(self, y: Tensor, targets: Array) -> Tensor:
        """The sum of the losses of a microbatch, a tensor of shape ()."""
        ...

    def count(self, targets: Array) -> float:
        """How many losses that sum holds."""
        ...


@runtime_checkable
class Classification(Loss, Protocol):
    """A loss of classes, whose outputs are right or wrong."""

    def correct(self, y: Tensor, targets: Array) -> Array:
        """For how many counted targets the likeliest class is the target, shape ()."""
        ...


def handed_on(layer: Module, x: Any) -> Tensor | tuple[Tensor, ...]:
    """What `layer` gives for `x`, as the next layer takes it, on this rank or another: a tensor, or a tuple of two or more.

    `ValueError` if it gives anything but tensors.
    """
    try:
        y = layer(x)
    except Exception as error:
        shapes = ", ".join(str(part.shape) for part in tensors_of(x))
        error.add_note(f"in layer {layer.name or '(root)'} ({type(layer).__name__}), given {shapes}")
        raise
    parts = tuple(y) if isinstance(y, (list, tuple)) else (y,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        found = ", ".join(type(part).__name__ for part in parts) or "nothing"
        raise ValueError(
            f"layer {layer.name or '(root)'} ({type(layer).__name__}) gives {found}; expected a Tensor, or a tuple or list of "
            "them, for the layer that follows"
        )
    return parts[0] if len(parts) == 1 else parts


def tensors_of(y: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors that a layer takes or has given."""
    return y if isinstance(y, tuple) else (y,)


class Sequential(Module):
    """Layers one after the other.  What a layer gives, one tensor or a tuple of them, is what the next one takes."""

    def __init__(self, layers: Sequence[Module]) -> None:
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        """Each layer in turn."""
        for layer in self.layers:
            x = handed_on(layer, x)
        return x


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The folder in a public format that weights were read from, and the configuration in it, as JSON values."""

    folder: str
    config: Mapping[str, Any]


class Stage(Module):
    """A run of a model's layers, of which the first has the number `first` in the model."""

    def __init__(self, layers: Sequence[Module], *, first: int = 0) -> None:
        self.layers, self.first = list(layers), first

    def forward(self, x: Any, between: Callable[[], None] = lambda: None) -> Any:
        """Each layer in turn, and `between` between two."""
        for number, layer in enumerate(self.layers, self.first):
            if number > self.first:
                between()
            (x[0] if isinstance(x, tuple) else x).context.calls.enter(number)
            x = handed_on(layer, x)
        return x


class Model(Stage):
    """A model: `layers` and a `loss`.  `settings` is what it was built from, for checkpoints and exports."""

    #: Where its weights were read from; `None` for one of our own.
    source: Source | None = None

    def __init__(self, layers: Sequence[Module], loss: Loss, **settings: object) -> None:
        super().__init__(layers)
        self.loss = loss
        self.settings = settings
        set_names(self)

    @property
    def lowest(self) -> int:
        """Number of the first layer with a parameter to train: no gradient is wanted below it.  `ValueError` without one."""
        for number, layer in enumerate(self.layers):
            if any(p.trained for p in layer.parameters()):
                return number
        raise ValueError(
            f"none of the model's {len(self.parameters())} parameters is trained; expected one at least: see Parameter.trained "
            "and the optimizer's groups"
        )

    def training(self, trained: Callable[[Parameter], bool]) -> Model:
        """The model with those of its parameters trained of which `trained` says so; this one is left as it is."""
        parameters = [p for p in self.parameters() if not isinstance(p, Statistic)]
        if all(p.trained == trained(p) for p in parameters):
            return self
        model = copy.copy(self)
        model.layers = copy.deepcopy(self.layers)
        for parameter in model.parameters():
            if not isinstance(parameter, Statistic):
                parameter.trained = trained(parameter)
        return model

    def cut(self, ranges: Sequence[tuple[int, int]]) -> list[Stage]:
        """Layers `start .. stop` of each range as a stage, under their global names, sharing nothing with this model.

        A parameter that two of the ranges share is shared by the two stages.
        """
        return copy.deepcopy([Stage(self.layers[start:stop], first=start) for start, stop in ranges])
