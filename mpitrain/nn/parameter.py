"""`Parameter`: an array known by its global name, shape and box, that exists only once a rank asks for it.

Invariant: a parameter's values follow from its name, its box and its initializer alone.  So a model can be described, counted,
cut and planned without memory, and two ranks that hold the same parameter start with the same bits without a message.
"""

from __future__ import annotations

import math

import numpy as np

from mpitrain.arrays import Array, Arrays, Stream, empty_beside
from mpitrain.autograd import Weight
from mpitrain.nn.init import Box, Initializer


class Parameter(Weight):
    """A weight of a model.

    `shape` is the global one, `box` the part that is held here, `decays` whether weight decay applies (by default to
    matrices and not to vectors: norms and biases).  `name` is its path from the model's root, set by `Model`.  Set `trained` to
    False to freeze it: it keeps its values, and costs no gradient and no optimizer state.
    """

    def __init__(self, shape: tuple[int, ...], init: Initializer, *, decays: bool | None = None) -> None:
        self.shape = shape
        self.init = init
        self.decays = len(shape) > 1 if decays is None else decays
        self.name = ""
        self.box: Box = tuple((0, n) for n in shape)
        self.grad, self.fresh, self.on_grad = None, True, None

    @property
    def moves(self) -> bool:
        """Whether steps change it."""
        return self.trained

    @property
    def size(self) -> int:
        """Number of elements of the global array."""
        return math.prod(self.shape)

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Shape of the part that is held here."""
        return tuple(stop - start for start, stop in self.box)

    def materialize(self, arrays: Arrays, dtype: np.dtype, seed: int) -> None:
        """Create the array: `init` for the stream (seed, name), in `dtype`."""
        values = self.init(Stream(seed, self.name), self.shape, self.box)
        data = empty_beside(values, dtype=dtype)
        data[...] = values
        self.data = arrays.asarray(data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name or '?'}, shape={self.shape})"


class Statistic(Parameter):
    """A running average that forward passes observe, such as batch norm's mean: never differentiated, never decayed.

    What the microbatches of a step observe is accumulated like a gradient, so that the same actions that reduce gradients
    make it independent of the layout; the update is `data += momentum * (observed mean - data)`, and none where a step has
    observed nothing.  `rows` counts the samples observed: a pass may come by twice, or not at all.
    """

    trained = False
    rows: float = 0.0

    def __init__(self, shape: tuple[int, ...], init: Initializer, *, momentum: float) -> None:
        super().__init__(shape, init, decays=False)
        self.momentum = momentum

    @property
    def moves(self) -> bool:
        """It follows what is observed."""
        return True

    def observe(self, value: Array, rows: int) -> None:
        """Add what a microbatch of `rows` samples saw."""
        grad = self.settled_grad()
        grad += value * rows
        self.rows += rows
        self.contributed()

    def clear_grad(self) -> None:
        """Forget what was observed."""
        super().clear_grad()
        self.rows = 0.0
