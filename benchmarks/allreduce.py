"""Time and bandwidth of allreduce by size: MPI's own through mpi4py, each of mpitrain's, its choice, and torch's gloo.

All sides are in the same ranks and take turns call by call, so that whatever else the machine does strikes all of them.
Columns are those of nccl-tests: algbw is size / time, busbw is algbw x 2(p-1)/p, #wrong counts elements.  A call's time is that
of its slowest rank, a side's the median of its calls, a ratio the median over the turns.  `hierarchical`, and `chosen` where it
takes that, combine arrays in the memory that gradients are kept in; `staged` is hierarchical on ordinary arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import report, table

Row = dict[str, Any]

#: Combines an array of this size, which it holds, over all ranks.
Call = Callable[[], None]

RATIO_MPI_FROM, RATIO_GLOO_FROM = 1 << 20, 1 << 16


def main() -> None:
    """Parse the command line; start the ranks, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="numbers of ranks")
    parser.add_argument("--largest", type=int, default=1 << 28, help="largest size in bytes; the smallest is 8")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each size is measured")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--quick", action="store_true", help="small sizes, few calls, to see that it runs")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.largest, args.seconds = 1 << 20, 0.02
    if args.inside is not None:
        run_rank(args.inside, largest=args.largest, seconds=args.seconds)
        return
    rows: list[Row] = []
    for ranks in args.ranks:
        rows += run_ranks(ranks, largest=args.largest, seconds=args.seconds)
    headline = {}
    for key, smallest in (("ratio_mpi", RATIO_MPI_FROM), ("ratio_gloo", RATIO_GLOO_FROM)):
        name = {"ratio_mpi": "ratio_mpi_from_1MiB", "ratio_gloo": "ratio_gloo_from_64KiB"}[key]
        headline[name] = min(row[key] for row in rows if row["side"] == "chosen" and row["size"] >= smallest)
    report(headline, rows, json_path=args.json)


def run_ranks(ranks: int, *, largest: int, seconds: float) -> list[Row]:
    """The rows of a job of that many ranks on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        inside = ["--inside", folder, "--largest", str(largest), "--seconds", str(seconds)]
        start = [sys.executable, "-m", "mpitrain", "run", "-n", str(ranks), __file__, *inside]
        subprocess.run(start, check=True)
        rows: list[Row] = json.loads(Path(folder, "rows").read_text())
        return rows


def run_rank(folder: Path, *, largest: int, seconds: float) -> None:
    """Be one rank: measure all sizes and, on rank 0, write the rows into `folder`."""
    from mpitrain.arrays import Arrays, empty_beside
    from mpitrain.comm import Communicator, finish, world
    from mpitrain.comm.allreduce import Allreduce

    def measure(comm: Communicator) -> None:
        import torch
        from mpi4py import MPI
        from torch import distributed

        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=comm.rank, world_size=comm.size)
        fixed = {name: Allreduce(comm.group(range(comm.size)), name) for name in ("ring", "halving", "hierarchical")}
        fixed["native"] = Allreduce(comm.group(range(comm.size)), "native", overlapped=False)
        auto = Allreduce(comm.group(range(comm.size)), overlapped=False)
        raw, rows = MPI.COMM_WORLD.Dup(), []
        if comm.rank == 0:
            print(auto.explain([auto.bucket_bytes]), flush=True)
        for size in (1 << e for e in range(3, largest.bit_length())):
            plain = empty_beside(np.empty(0, np.float32), (size // 4,))
            shared = fixed["hierarchical"].zeros(Arrays(), size // 4, plain.dtype)
            kept = auto.zeros(Arrays(), size // 4, plain.dtype)
            tensor = torch.from_numpy(plain)
            sides: dict[str, tuple[np.ndarray, Call]] = {
                "mpi": (plain, lambda x=plain: raw.Allreduce(MPI.IN_PLACE, x)),
                "native": (plain, lambda x=plain: finish(fixed["native"](x))),
                "ring": (plain, lambda x=plain: finish(fixed["ring"](x))),
                "halving": (plain, lambda x=plain: finish(fixed["halving"](x))),
                "hierarchical": (shared, lambda x=shared: finish(fixed["hierarchical"](x))),
                "staged": (plain, lambda x=plain: finish(fixed["hierarchical"](x))),
                "chosen": (kept, lambda x=kept: finish(auto(x))),
                "gloo": (plain, lambda x=tensor: distributed.all_reduce(x)),
            }
            wrong = {name: count_wrong(comm, x, call) for name, (x, call) in sides.items()}
            times = take_turns(comm, sides, seconds)
            for name, found in times.items():
                rows.append(row(comm.size, size, name, found, times, wrong[name]))
            rows[-2]["choice"] = auto.choice(size)
            if comm.rank == 0:
                print(table(rows[-len(sides) :]), flush=True)
        distributed.destroy_process_group()
        if comm.rank == 0:
            (folder / "rows").write_text(json.dumps(rows))

    world(os.environ).run(measure)


def row(ranks: int, size: int, side: str, found: list[float], times: dict[str, list[float]], wrong: int) -> Row:
    """One line of the table."""
    seconds = statistics.median(found)
    bandwidth = size / seconds
    return {
        "ranks": ranks,
        "size": size,
        "side": side,
        "time us": 1e6 * seconds,
        "algbw GB/s": bandwidth / 1e9,
        "busbw GB/s": bandwidth * 2 * (ranks - 1) / ranks / 1e9,
        "#wrong": wrong,
        "calls": len(found),
        "ratio_mpi": statistics.median(a / b for a, b in zip(times["mpi"], found, strict=True)),
        "ratio_gloo": statistics.median(a / b for a, b in zip(times["gloo"], found, strict=True)),
        "choice": "",
    }


def take_turns(comm: Any, sides: dict[str, tuple[np.ndarray, Call]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call of each side on its slowest rank; the first side changes from turn to turn."""
    from mpitrain.comm import Reduction

    names, found, turn = list(sides), [], 0
    begin = time.perf_counter()
    enough = np.zeros(1)
    while enough[0] == 0:
        elapsed = np.zeros(len(names))
        for i in ((turn + k) % len(names) for k in range(len(names))):
            x, call = sides[names[i]]
            x.fill(1)  # or repeated sums would overflow
            comm.barrier()
            start = time.perf_counter()
            call()
            elapsed[i] = time.perf_counter() - start
        found.append(elapsed)
        turn += 1
        enough[0] = turn >= 5 and time.perf_counter() - begin > seconds
        comm.broadcast(enough, 0)
    all_ranks = np.stack(found[1:])
    comm.allreduce(all_ranks, Reduction.MAX)
    return {name: all_ranks[:, i].tolist() for i, name in enumerate(names)}


def count_wrong(comm: Any, x: np.ndarray, call: Call) -> int:
    """Elements that one call gets wrong on any rank: small integers, so that every order of summation is exact."""
    x[:] = np.arange(len(x)) % 97 + comm.rank
    call()
    expected = comm.size * (np.arange(len(x)) % 97) + comm.size * (comm.size - 1) // 2
    wrong = np.array([np.count_nonzero(x != expected)])
    comm.allreduce(wrong)
    return int(wrong[0])


if __name__ == "__main__":
    main()
