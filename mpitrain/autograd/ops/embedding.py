"""Look-up of rows in a table of weights."""

from __future__ import annotations

from mpitrain.arrays import Array
from mpitrain.autograd import checks
from mpitrain.autograd.tensor import Op, Tensor, Weight
from mpitrain.kernels import embedding as kernels


def embedding(ids: Tensor, table: Weight, *, padding: int | None = None) -> Tensor:
    """table[ids]: for integer ids of any shape, shape (*ids.shape, width).

    The row `padding` gets no gradient, as in `torch.nn.functional.embedding`.
    """
    return _Embedding(padding)(ids, weights=(table,))


class _Embedding(Op):
    def __init__(self, padding: int | None) -> None:
        self.padding = padding

    def forward(self, ids: Array, table: Array) -> Array:
        checks.labels("token", ids, len(table), wait=self.context.check)
        self.ids, self.kernels = ids, self.context.kernels.taking(table.dtype)
        return kernels.embedding(table, ids)

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        return (None,)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        self.kernels.embedding_grad(dy, self.ids, out[0])
        if self.padding is not None:
            out[0][self.padding] = 0
