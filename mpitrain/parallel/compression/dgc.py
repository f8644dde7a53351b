"""Deep gradient compression: top-k of a momentum that every replica keeps for itself.

Invariant: an element that was sent starts again from nothing, in the momentum and in what it has accumulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpitrain.arrays import Array, namespace, sum_dtype
from mpitrain.bounds import Density, Limit, NotNegativeInt, Rate
from mpitrain.comm import Collective, Peers
from mpitrain.nn import Parameter
from mpitrain.parallel.compression.compressor import Compressor, Held, Piece, Slot, count_of
from mpitrain.parallel.compression.sparse import largest, sum_sparse

#: Stages of the warm-up; in stage i (the first is 0) a part of 4^-(i+1) is sent.
_STAGES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DGC(Compressor):
    """u' = m u + clip(g);  v' = v + u';  s = the k largest elements of v';  u' and v' become 0 there;  the sum is Σ s.

    The momentum m is in here, so the optimizer is `SGD` without one.  k = `density` n; in the first `warmup` steps it is a
    quarter of n, a sixteenth, ... in four equal parts (or `density` n, where that is more).  `clip` bounds the norm of a
    parameter's gradient, clip / √p on each replica, in units of the gradient of a sample's summed loss.
    Sends (p-1) k (w+4) bytes.  Lin et al. 2018, "Deep gradient compression", sections 3.1-3.3, algorithm 4; the norm is each
    parameter's and not the model's, as in the authors' code, since parameters leave while others are still being computed.
    """

    density: Density = 0.001
    momentum: Rate = 0.9
    clip: Limit | None = None
    warmup: NotNegativeInt = 0

    def slots(self, parameter: Parameter) -> tuple[Slot, ...]:
        """The momentum u and the velocity v."""
        return tuple(Slot(name=name, held=Held.EACH, shape=parameter.shape) for name in ("dgc_momentum", "dgc_velocity"))

    def density_at(self, step: int) -> float:
        """The part of the elements that step number `step` sends."""
        if step >= self.warmup:
            return self.density
        return float(max(self.density, 0.25 ** (1 + _STAGES * step // self.warmup)))

    def exchange(self, peers: Peers, pieces: Sequence[Piece], *, step: int, tag: int) -> Collective:
        """See the class."""
        where, values = [], []
        for piece in pieces:
            momentum, velocity = (piece.state[name].reshape(-1) for name in ("dgc_momentum", "dgc_velocity"))
            momentum *= self.momentum
            momentum += self._clipped(piece, peers.size).reshape(-1)
            velocity += momentum
            where.append(largest(velocity, count_of(velocity.size, self.density_at(step))))
            values.append(velocity[where[-1]])
            momentum[where[-1]] = 0
            velocity[where[-1]] = 0
        yield from sum_sparse(peers, where, values, [piece.grad for piece in pieces], tag)

    def _clipped(self, piece: Piece, replicas: int) -> Array:
        if self.clip is None:
            return piece.grad
        xp, flat = namespace(piece.grad), piece.grad.reshape(-1).astype(sum_dtype(piece.grad.dtype), copy=False)
        bound = self.clip / replicas**0.5
        return flat * (bound / xp.maximum(xp.sqrt(flat @ flat), bound))
