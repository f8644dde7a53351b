"""What holds during one pass of one microbatch through a stage, carried by its tensors.

Invariant: whatever a layer's result depends on besides its input and its weights is in here (so there is no global training
flag, no global gradient switch and no hidden random state), and ops hand it from their inputs to their output unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import FLOATS
from mpitrain.kernels.table import TWINS, Kernels


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The circumstances of a pass.

    `samples` holds, for each row of the microbatch, its position in the global order of training samples: with the layer's
    name and `seed` it keys every random number that the pass draws.
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
    #: The model's type, in which an op without weights computes with integers.
    dtype: np.dtype = FLOATS["float32"]
    #: What ops compute with.
    kernels: Kernels = TWINS
