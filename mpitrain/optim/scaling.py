"""How a learning rate that was found for one batch size is carried over to another.

Invariant: the rule says what stays the same.  `linear`: the step that k small batches would have taken together, for SGD (Goyal
et al. 2017, "Accurate, large minibatch SGD", section 2.1).  `sqrt`: the noise of the step, whose standard deviation falls with
the root of the batch (Krizhevsky 2014, "One weird trick", section 5), as LAMB's authors use it (You et al. 2020, section 4).
Neither holds while the weights change fast, so both want a warm-up (Goyal et al., section 2.2, five epochs): the schedule's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

#: Each rule's factor on the learning rate, for a batch that is `k` times as large.
SCALINGS: dict[str, Callable[[float], float]] = {"linear": lambda k: k, "sqrt": math.sqrt}


def scaled_lr(lr: float, batch: int, base_batch: int, rule: str = "linear") -> float:
    """The learning rate for `batch` samples a step, where `lr` is right for `base_batch`; `rule` is `"linear"` or `"sqrt"`.

    `ValueError` if the rule is another.
    """
    if rule not in SCALINGS:
        raise ValueError(f"the scaling rule {rule!r} is not known; expected one of {', '.join(SCALINGS)}")
    return lr * SCALINGS[rule](batch / base_batch)
