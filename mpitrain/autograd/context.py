"""What holds during one pass of one microbatch through a stage, carried by its tensors.

Invariant: whatever a layer's result depends on besides its input and its weights is in here (so there is no global training
flag, no global gradient switch and no hidden random state), and ops hand it from their inputs to their output unchanged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from mpitrain.arrays import FLOATS
from mpitrain.kernels.table import TWINS, Kernels


class Calls:
    """How often each name has drawn random numbers in a pass, counted anew in each of the model's layers.

    So a call's number follows from the layer and from what goes on inside it, wherever a pipeline cuts the model.
    """

    __slots__ = ("_counts", "_layer")

    def __init__(self) -> None:
        self._layer, self._counts = 0, Counter[str]()

    def enter(self, layer: int) -> None:
        """The pass has come to the model's layer of this number."""
        self._layer = layer
        self._counts.clear()

    def key(self, name: str) -> str:
        """The name of the random stream of the next call under `name`."""
        self._counts[name] += 1
        return f"{name}/{self._layer}/{self._counts[name]}"

    def copy(self) -> Calls:
        """The counts as they stand, for a second run from here on."""
        copied = Calls()
        copied._layer, copied._counts = self._layer, self._counts.copy()
        return copied


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The circumstances of a pass.

    `samples` holds, for each row of the microbatch, its position in the global order of training samples: with `seed`, the
    layer's name and the number of the call it keys every random number that the pass draws.
    """

    #: Whether ops are recorded for a backward pass.
    record: bool = True
    #: Whether dropout drops and batch norm uses the microbatch's own statistics.
    train: bool = True
    #: Whether every module's output is looked at, so that the first one that is not finite is named.
    check: bool = False
    #: Key of the run's random streams.
    seed: int = 0
    #: What a sample counts in the step: 1 / samples in the global batch, so that sums over the step are means.
    sample_weight: float = 1.0
    #: Global number of the sample in each row of the microbatch.
    samples: tuple[int, ...] = ()
    #: The numbers of the calls that draw random numbers; one for each pass of a microbatch.
    calls: Calls = field(default_factory=Calls, compare=False)
    #: The model's type, in which an op without weights computes with integers.
    dtype: np.dtype = FLOATS["float32"]
    #: What ops compute with.
    kernels: Kernels = TWINS
