"""Tokens a second of one training step of a small GPT on one rank with one thread, beside torch's.

Both sides are processes of their own and take steps in turn, so that whatever else the machine does strikes both; the figures
are medians.  Both train the same model from the same weights on the same tokens, and their losses are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from report import report

SIZES = {"width": 256, "depth": 4, "heads": 4, "vocab": 256, "context": 256}
BATCH, LR = 4, 3e-4
QUICK_SIZES = {"width": 32, "depth": 2, "heads": 2, "vocab": 256, "context": 32}

#: Takes a step on one batch of tokens (batch, context + 1) and returns the mean loss.
Step = Callable[[Any], float]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=["torch"], help="what to compare with")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--steps", type=int, default=60, help="timed steps")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps, to see that it runs")
    args = parser.parse_args()
    sizes, steps = (QUICK_SIZES, 5) if args.quick else (SIZES, args.steps)
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"  # inherited by the two sides, which have not loaded a library yet
    makers = {"mpitrain": ours} | ({"torch": torch_step} if args.peer else {})
    seconds, losses = take_turns(makers, sizes, warm=3, steps=steps)
    tokens = BATCH * sizes["context"]
    rows = [
        {
            "side": side,
            "tokens/s": tokens / statistics.median(times),
            "ms/step": 1e3 * statistics.median(times),
            "fastest": 1e3 * min(times),
            "last loss": losses[side][-1],
        }
        for side, times in seconds.items()
    ]
    headline = {"tokens_per_second": rows[0]["tokens/s"]}
    if args.peer:
        headline = {"ratio_torch": rows[0]["tokens/s"] / rows[1]["tokens/s"]}
        difference = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
        headline["largest_loss_difference"] = difference
        assert difference < 1e-2, f"the two sides do not train the same model: their losses are up to {difference} apart"
    report(headline, rows, json_path=args.json)


def take_turns(
    makers: dict[str, Callable[[dict[str, int]], Step]], sizes: dict[str, int], *, warm: int, steps: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and losses of each timed step of each side; one process a side, one of them at work at any time."""
    context = get_context("spawn")
    sides = {}
    for name, make in makers.items():
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, make, sizes), daemon=True)
        process.start()
        there.close()
        sides[name] = here
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(warm + steps):
        for name, side in sides.items():
            side.send(i)
            elapsed, loss = side.recv()
            if i >= warm:
                seconds[name].append(elapsed)
                losses[name].append(loss)
    return seconds, losses


def serve(parent: Connection, make: Callable[[dict[str, int]], Step], sizes: dict[str, int]) -> None:
    """Take a step for every number that arrives, and answer with its seconds and its loss."""
    import numpy as np

    step = make(sizes)
    while True:
        try:
            number = parent.recv()
        except EOFError:
            return
        tokens = np.random.default_rng(number).integers(0, sizes["vocab"], (BATCH, sizes["context"] + 1))
        start = time.perf_counter()
        loss = step(tokens)
        parent.send((time.perf_counter() - start, loss))


def model_of(sizes: dict[str, int]) -> Any:
    """Our model with its initial weights."""
    import numpy as np

    from mpitrain.arrays import Arrays
    from mpitrain.nn.models import GPT

    model = GPT(**sizes)
    model.materialize(Arrays(), np.dtype(np.float32), seed=0)
    return model


def ours(sizes: dict[str, int]) -> Step:
    """Forward, backward and AdamW of mpitrain."""
    import numpy as np

    from mpitrain.arrays import Arrays, keep_freed_pages
    from mpitrain.autograd import Context, Tensor, backward
    from mpitrain.kernels.table import kernels_for
    from mpitrain.optim import AdamW, OptimizerState

    keep_freed_pages()
    model = model_of(sizes)
    kernels = kernels_for(Arrays(), np.dtype(np.float32))
    context = Context(kernels=kernels)
    state = OptimizerState(AdamW(lr=LR), model.parameters(), kernels)

    def step(tokens: np.ndarray) -> float:
        targets = tokens[:, 1:]
        loss = model.loss(model(Tensor(tokens[:, :-1], context=context)), targets)
        backward([loss], [np.asarray(1.0 / targets.size, np.float32)])
        state.step()
        return float(loss.data) / targets.size

    return step


def torch_step(sizes: dict[str, int], replicated: Callable[[Any], Any] = lambda model: model) -> Step:
    """The same of torch: eager, scaled_dot_product_attention, fused AdamW; `replicated` may wrap the model."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(1)
    width, heads = sizes["width"], sizes["heads"]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            q, k, v = (part.view(b, t, heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(width, dim=2))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, width))
            return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(sizes["vocab"], width), nn.Embedding(sizes["context"], width)
            self.blocks = nn.ModuleList(Block() for _ in range(sizes["depth"]))
            self.norm = nn.LayerNorm(width)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return functional.linear(self.norm(x), self.tokens.weight)

    model = Model()
    model.load_state_dict({_torch_name(p.name): torch.from_numpy(p.data) for p in model_of(sizes).parameters()})
    decaying = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decaying, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    model = replicated(model)

    def step(tokens: Any) -> float:
        batch = torch.from_numpy(tokens)
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _torch_name(name: str) -> str:
    """`layers.2.attention.qkv.weight` is `blocks.1.qkv.weight` there."""
    _, number, *rest = name.split(".")
    rest = [part for part in rest if part != "attention"]
    outer = rest[0] in ("tokens", "positions", "norm")
    return ".".join(rest if outer else ["blocks", str(int(number) - 1), *rest])


if __name__ == "__main__":
    main()
