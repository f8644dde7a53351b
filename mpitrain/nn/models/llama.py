"""Llama (Touvron et al. 2023): RMS norm, rotary positions, SwiGLU, grouped-query attention, no biases.

Invariant: a layer takes one tensor and gives one, so the model can be cut between any two: embedding, `depth` blocks, head.
"""

from __future__ import annotations

import math

from mpitrain.autograd import Tensor, checkpoint
from mpitrain.autograd.ops import add
from mpitrain.nn.activation import SwiGLU
from mpitrain.nn.attention import Attention
from mpitrain.nn.embedding import Embedding
from mpitrain.nn.init import Normal
from mpitrain.nn.linear import Linear
from mpitrain.nn.loss import CrossEntropy
from mpitrain.nn.model import Model
from mpitrain.nn.module import Module
from mpitrain.nn.norm import RMSNorm
from mpitrain.nn.parameter import Parameter

#: Standard deviation of the initial weights; those that write to the residual stream have it divided by sqrt(2 depth).
STD = 0.02


class Llama(Model):
    """Next-token logits (batch, time, vocab) for tokens (batch, time).

    `mlp` is the hidden width of SwiGLU, `theta` the base of the rotary angles.  `context` is the length the model is meant
    for; nothing in it is that long.  `recompute` keeps only the blocks' inputs for backward.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        kv_heads: int,
        vocab: int,
        context: int,
        mlp: int,
        theta: float = 10000.0,
        tied: bool = False,
        eps: float = 1e-5,
        recompute: bool = False,
    ) -> None:
        first = Embedding(vocab, width, init=Normal(STD))
        out_std = STD / math.sqrt(2 * depth)
        blocks = [
            LlamaBlock(width, heads, kv_heads, mlp, theta=theta, eps=eps, out_std=out_std, recompute=recompute)
            for _ in range(depth)
        ]
        last = LlamaHead(width, vocab, eps=eps, weight=first.weight if tied else None)
        super().__init__(
            [first, *blocks, last],
            CrossEntropy(),
            width=width,
            depth=depth,
            heads=heads,
            kv_heads=kv_heads,
            vocab=vocab,
            context=context,
            mlp=mlp,
            theta=theta,
            tied=tied,
            eps=eps,
            recompute=recompute,
        )


class LlamaBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with gate and up in one product."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, mlp: int, *, theta: float, eps: float, out_std: float, recompute: bool
    ) -> None:
        self.norm1 = RMSNorm(width, eps=eps)
        self.attention = Attention(
            width, heads, kv_heads=kv_heads, bias=False, rope_theta=theta, init=Normal(STD), out_init=Normal(out_std)
        )
        self.norm2 = RMSNorm(width, eps=eps)
        self.gate_up = Linear(width, 2 * mlp, bias=False, init=Normal(STD))
        self.swiglu = SwiGLU()
        self.down = Linear(mlp, width, bias=False, init=Normal(out_std))
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same shape."""
        return checkpoint(self._apply)(x) if self.recompute else self._apply(x)

    def _apply(self, x: Tensor) -> Tensor:
        x = add(x, self.attention(self.norm1(x)))
        return add(x, self.down(self.swiglu(self.gate_up(self.norm2(x)))))


class LlamaHead(Module):
    """The last norm and the logits."""

    def __init__(self, width: int, vocab: int, *, eps: float, weight: Parameter | None) -> None:
        self.norm = RMSNorm(width, eps=eps)
        self.out = Linear(width, vocab, bias=False, init=Normal(STD), weight=weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to (batch, time, vocab)."""
        return self.out(self.norm(x))
