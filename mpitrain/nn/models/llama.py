"""Llama (Touvron et al. 2023) and its relatives: RMS norm, rotary positions, SwiGLU, grouped-query attention.

Mistral, Qwen2, Qwen3 and Phi-3 are this model under other settings.

Invariant: a layer takes one tensor and gives one, so the model can be cut between any two: embedding, `depth` blocks, head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mpitrain.autograd import Tensor, checkpoint
from mpitrain.autograd.ops import add
from mpitrain.bounds import Count, NotNegative, Positive, checked
from mpitrain.nn.activation import SwiGLU
from mpitrain.nn.attention import Attention, head_width
from mpitrain.nn.embedding import Embedding
from mpitrain.nn.init import Normal
from mpitrain.nn.linear import Linear
from mpitrain.nn.loss import CrossEntropy
from mpitrain.nn.model import Model
from mpitrain.nn.module import Module
from mpitrain.nn.norm import RMSNorm
from mpitrain.nn.parameter import Parameter
from mpitrain.nn.rotary import Rotary

#: Standard deviation of the initial weights; those that write to the residual stream have it divided by sqrt(2 depth).
STD = 0.02


class Llama(Model):
    """Next-token logits (batch, time, vocab) for tokens (batch, time).

    `mlp` is the hidden width of SwiGLU, `context` the length that the model is meant for; nothing in it is that long.  `theta`
    is the base of the rotary angles, `rope` their scaling (see `Rotary`).  `kv_heads`, `head_dim` and `window` are those of
    `Attention`, `qk_norm` whether it norms queries and keys.  `qkv_bias`, `out_bias` and `mlp_bias` add biases to its products
    and to SwiGLU's.  `padding` is a token whose vector is not trained as an input.  `recompute` keeps only the blocks' inputs
    for backward.
    """

    @checked
    def __init__(
        self,
        *,
        width: Count,
        depth: Count,
        heads: Count,
        kv_heads: Count | None = None,
        head_dim: Count | None = None,
        vocab: Count,
        context: Count,
        mlp: Count,
        theta: Positive = 10000.0,
        rope: Mapping[str, Any] | None = None,
        window: Count | None = None,
        qkv_bias: bool = False,
        out_bias: bool = False,
        mlp_bias: bool = False,
        qk_norm: bool = False,
        tied: bool = False,
        padding: int | None = None,
        eps: NotNegative = 1e-5,
        recompute: bool = False,
    ) -> None:
        kv_heads = heads if kv_heads is None else kv_heads
        head_dim = head_width(width, heads, head_dim)
        out_std = STD / math.sqrt(2 * depth)

        def block() -> LlamaBlock:
            attention = Attention(
                width,
                heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                bias=qkv_bias,
                out_bias=out_bias,
                norm_eps=eps if qk_norm else None,
                rotary=Rotary(head_dim, theta, context=context, scaling=rope),
                window=window,
                init=Normal(STD),
                out_init=Normal(out_std),
            )
            return LlamaBlock(attention, width, mlp, bias=mlp_bias, eps=eps, out_std=out_std, recompute=recompute)

        first = Embedding(vocab, width, init=Normal(STD), padding=padding)
        last = LlamaHead(width, vocab, eps=eps, weight=first.weight if tied else None)
        super().__init__(
            [first, *(block() for _ in range(depth)), last],
            CrossEntropy(),
            width=width,
            depth=depth,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab=vocab,
            context=context,
            mlp=mlp,
            theta=theta,
            rope=None if rope is None else dict(rope),
            window=window,
            qkv_bias=qkv_bias,
            out_bias=out_bias,
            mlp_bias=mlp_bias,
            qk_norm=qk_norm,
            tied=tied,
            padding=padding,
            eps=eps,
            recompute=recompute,
        )


class LlamaBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with gate and up in one product."""

    def __init__(
        self, attention: Attention, width: int, mlp: int, *, bias: bool, eps: float, out_std: float, recompute: bool
    ) -> None:
        self.norm1 = RMSNorm(width, eps=eps)
        self.attention = attention
        self.norm2 = RMSNorm(width, eps=eps)
        self.gate_up = Linear(width, 2 * mlp, bias=bias, init=Normal(STD))
        self.swiglu = SwiGLU()
        self.down = Linear(mlp, width, bias=bias, init=Normal(out_std))
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
