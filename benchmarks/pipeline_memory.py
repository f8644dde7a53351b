"""The most activations that each rank of a pipeline holds at once, beside the closed form of each schedule.

Invariant: bytes are counted where they are kept: each stage's op keeps an array for its gradients, as layers do, which counts
from its making until Python frees it.  So a graph that lives too long, or an activation that a put-off weight gradient still
holds, shows.  Passes go through the executor that training goes through, one thread a rank.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pipeline_pass import executor
from report import report

from mpitrain.arrays import Array
from mpitrain.autograd import Op, Tensor
from mpitrain.comm import Communicator, local
from mpitrain.nn import Module, Parameter
from mpitrain.nn.init import ZEROS
from mpitrain.program import SCHEDULES

RANKS, MICROBATCHES = (2, 4, 8), (8, 16, 32)
#: Elements of float32 that a stage keeps of a microbatch.
KEPT = 1 << 14

#: Ranks p, microbatches m, rank -> activations of a stage, where m is 2p or more; the schedules' docstrings cite the papers.
FORMULAS: dict[str, Callable[[int, int, int], int]] = {
    "gpipe": lambda p, m, rank: m,
    "1f1b": lambda p, m, rank: p - rank,
    "interleaved": lambda p, m, rank: min(-(-m // (m // p)) + 2 * (p - rank - 1) + 1, 2 * m),
    "looped_bfs": lambda p, m, rank: 2 * m,
    "zb_h1": lambda p, m, rank: p,
    "zb_v": lambda p, m, rank: 2 * p,
    "dualpipe_v": lambda p, m, rank: 2 * p + 1,
}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--quick", action="store_true", help="2 ranks and 4 microbatches, to see that it runs")
    args = parser.parse_args()
    sizes = [(2, 4)] if args.quick else [(p, m) for p in RANKS for m in MICROBATCHES if m >= 2 * p]
    rows = []
    for name, formula in FORMULAS.items():
        for p, m in sizes:
            measured = [peak / (4 * KEPT) for peak in peaks(name, p, m)]
            expected = [formula(p, m, rank) for rank in range(p)]
            rows.append(
                {
                    "schedule": name,
                    "ranks": p,
                    "microbatches": m,
                    "measured": " ".join(f"{x:g}" for x in measured),
                    "formula": " ".join(map(str, expected)),
                    "relative error": max(abs(x - y) / y for x, y in zip(measured, expected, strict=True)),
                }
            )
    report({"worst_relative_error": max(row["relative error"] for row in rows)}, rows, json_path=args.json)


def peaks(name: str, ranks: int, microbatches: int) -> list[int]:
    """Bytes that each rank's graphs kept at most, in the second of two passes."""
    order = SCHEDULES[name](ranks, microbatches)

    def as_rank(comm: Communicator) -> int:
        counter = Counter()
        run = executor(comm, order, microbatches, lambda between: KeepingLayer(counter), payload=1)
        run()
        assert counter.now == 0, f"rank {comm.rank} still holds {counter.now} bytes after its pass"
        counter.most = 0
        run()
        return counter.most

    return local(ranks).run(as_rank)


@dataclass(slots=True)
class Counter:
    """Bytes that are kept now, and the most that ever were."""

    now: int = 0
    most: int = 0

    def array(self, size: int) -> np.ndarray:
        """An array that counts until it is freed."""
        kept = np.zeros(size, np.float32)
        self._add(kept.nbytes)
        weakref.finalize(kept, self._add, -kept.nbytes)
        return kept

    def _add(self, nbytes: int) -> None:
        self.now += nbytes
        self.most = max(self.most, self.now)


class Keeping(Op):
    """Keeps an array from forward until neither gradient needs it."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def forward(self, x: Array, weight: Array) -> Array:
        """`x`."""
        self.kept = self.counter.array(KEPT)
        return x

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        """`dy`."""
        return (dy,)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        """Zero."""
        out[0].fill(0)


class KeepingLayer(Module):
    """A layer of one weight whose op keeps an array that `counter` counts."""

    def __init__(self, counter: Counter) -> None:
        self.weight, self.counter = Parameter((1,), ZEROS), counter

    def forward(self, x: Tensor) -> Tensor:
        """`x`."""
        return Keeping(self.counter)(x, weights=(self.weight,))


if __name__ == "__main__":
    main()
