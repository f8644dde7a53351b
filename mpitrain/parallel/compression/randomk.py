"""Random-k: all replicas send the same elements, which nobody needs to name, since all draw them alike.

Invariant: which elements follows from (seed, step, parameter's name), so only values travel, and they are summed on their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpitrain.arrays import Array, Stream, namespace
from mpitrain.bounds import Density
from mpitrain.comm import Collective, Peers
from mpitrain.data import permute
from mpitrain.nn import Parameter
from mpitrain.parallel.compression.compressor import (
    Compressor,
    Held,
    Piece,
    Slot,
    count_of,
    sum_dense,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomK(Compressor):
    """a = e + g;  s = k elements of a, drawn without replacement;  e' = a - s;  the sum is Σ s.

    k = `density` n.  Without `error_feedback`, e is always zero and s is multiplied by n/k: the sum is right on average.
    Sends 2(p-1)/p k w bytes.
    Stich, Cordonnier and Jaggi 2018, "Sparsified SGD with memory", section 2; without feedback, Konečný et al. 2016,
    "Federated learning: strategies for improving communication efficiency", section 3.
    """

    density: Density = 0.01
    error_feedback: bool = True
    seed: int = 0

    def slots(self, parameter: Parameter) -> tuple[Slot, ...]:
        """The residual, if there is feedback."""
        return (Slot(name="residual", held=Held.EACH, shape=parameter.shape),) if self.error_feedback else ()

    def chosen(self, name: str, size: int, step: int) -> np.ndarray:
        """The flat indices, of `size`, that step number `step` sends of the parameter `name`."""
        return permute(np.arange(count_of(size, self.density)), size, Stream(self.seed, f"random-k/{step}/{name}"))

    def exchange(self, peers: Peers, pieces: Sequence[Piece], *, step: int, tag: int) -> Collective:
        """See the class."""
        where: list[Array] = []
        values: list[Array] = []
        for piece in pieces:
            flat = piece.grad.reshape(-1)
            where.append(namespace(flat).asarray(self.chosen(piece.name, flat.size, step)))
            if self.error_feedback:
                carried = piece.state["residual"].reshape(-1)
                carried += flat
                values.append(carried[where[-1]])
                carried[where[-1]] = 0
            else:
                values.append(flat[where[-1]] * flat.dtype.type(flat.size / where[-1].size))
        yield from sum_dense(peers, values, tag)
        for piece, places, found in zip(pieces, where, values, strict=True):
            piece.grad.fill(0)
            piece.grad.reshape(-1)[places] = found
