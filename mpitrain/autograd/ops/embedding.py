"""Look-up of rows in a table of weights."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.autograd.tensor import Op, Tensor, Weight
from mpitrain.kernels import embedding as kernels


def embedding(ids: Tensor, table: Weight) -> Tensor:
    """table[ids]: for integer ids of any shape, shape (*ids.shape, width)."""
    return _Embedding()(ids, weights=(table,))


class _Embedding(Op):
    def forward(self, ids: Array, table: Array) -> Array:
        self.ids = ids
        return kernels.embedding(table, ids)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (None,)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        self.context.kernels.embedding_grad(dy, self.ids, out[0])
