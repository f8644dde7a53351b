"""GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, GELU.

Invariant: a layer takes one tensor and gives one, so the model can be cut between any two: embedding, `depth` blocks, head.
"""

from __future__ import annotations

import math

from mpitrain.arrays import namespace
from mpitrain.autograd import Tensor, checkpoint
from mpitrain.autograd.ops import add
from mpitrain.bounds import Count, NotNegative, Rate, checked
from mpitrain.nn.activation import GELU
from mpitrain.nn.attention import Attention
from mpitrain.nn.dropout import Dropout
from mpitrain.nn.embedding import Embedding
from mpitrain.nn.init import Normal
from mpitrain.nn.linear import Linear
from mpitrain.nn.loss import CrossEntropy
from mpitrain.nn.model import Model
from mpitrain.nn.module import Module
from mpitrain.nn.norm import LayerNorm
from mpitrain.nn.parameter import Parameter

#: Standard deviation of the initial weights; those that write to the residual stream have it divided by sqrt(2 depth).
STD = 0.02


class GPT(Model):
    """Next-token logits (batch, time, vocab) for tokens (batch, time <= context).

    `mlp` is the hidden width, 4 * width by default.  `tied` makes the output weight the embedding's table.  `dropout` acts
    after the embedding and before each residual sum.  `recompute` keeps only the blocks' inputs for backward.
    """

    @checked
    def __init__(
        self,
        *,
        width: Count,
        depth: Count,
        heads: Count,
        vocab: Count,
        context: Count,
        dropout: Rate = 0.0,
        mlp: Count | None = None,
        tied: bool = True,
        eps: NotNegative = 1e-5,
        recompute: bool = False,
    ) -> None:
        mlp = 4 * width if mlp is None else mlp
        first = GPTEmbedding(vocab, context, width, dropout)
        blocks = [
            GPTBlock(width, heads, mlp, dropout=dropout, eps=eps, out_std=STD / math.sqrt(2 * depth), recompute=recompute)
            for _ in range(depth)
        ]
        last = GPTHead(width, vocab, eps=eps, weight=first.tokens.weight if tied else None)
        super().__init__(
            [first, *blocks, last],
            CrossEntropy(),
            width=width,
            depth=depth,
            heads=heads,
            vocab=vocab,
            context=context,
            dropout=dropout,
            mlp=mlp,
            tied=tied,
            eps=eps,
            recompute=recompute,
        )


class GPTEmbedding(Module):
    """The sum of a token's and a position's vector."""

    def __init__(self, vocab: int, context: int, width: int, dropout: float) -> None:
        self.tokens = Embedding(vocab, width, init=Normal(STD))
        self.positions = Embedding(context, width, init=Normal(STD))
        self.dropout = Dropout(dropout)
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, time) to (batch, time, width)."""
        time = x.shape[1]
        if time > self.context:
            raise ValueError(f"a sequence has {time} tokens; expected at most the model's context, {self.context}: cut it")
        positions = Tensor(namespace(x.data).arange(time), context=x.context)
        return self.dropout(add(self.tokens(x), self.positions(positions)))


class GPTBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, width: int, heads: int, mlp: int, *, dropout: float, eps: float, out_std: float, recompute: bool
    ) -> None:
        self.norm1 = LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads, init=Normal(STD), out_init=Normal(out_std))
        self.dropout1 = Dropout(dropout)
        self.norm2 = LayerNorm(width, eps=eps)
        self.up = Linear(width, mlp, init=Normal(STD))
        self.gelu = GELU(tanh=True)
        self.down = Linear(mlp, width, init=Normal(out_std))
        self.dropout2 = Dropout(dropout)
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same shape."""
        return checkpoint(self._apply)(x) if self.recompute else self._apply(x)

    def _apply(self, x: Tensor) -> Tensor:
        x = add(x, self.dropout1(self.attention(self.norm1(x))))
        return add(x, self.dropout2(self.down(self.gelu(self.up(self.norm2(x))))))


class GPTHead(Module):
    """The last norm and the logits."""

    def __init__(self, width: int, vocab: int, *, eps: float, weight: Parameter | None) -> None:
        self.norm = LayerNorm(width, eps=eps)
        self.out = Linear(width, vocab, bias=False, init=Normal(STD), weight=weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to (batch, time, vocab)."""
        return self.out(self.norm(x))
