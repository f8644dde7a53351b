"""Weak and strong scaling of data-parallel training over the ranks that `mpirun` or `srun` started this script on.

Invariant: all sizes are measured in one job, on its first 1, 2, 4, ... ranks, in turns, while the other ranks sleep; so a slow
minute of the machine strikes all sizes.  Weak: `--batch` samples a rank.  Strong: the largest size's weak batch at every size,
in microbatches of `--batch` samples.  Efficiency is the throughput a rank over that of the smallest size, round by round; the
figures are medians over rounds with 95 % bootstrap intervals.  Rank 0 prints; `--json` and `--png` write.

    mpirun -n 8 python benchmarks/scaling.py --model gpt --json scaling.json --png scaling.png
    srun --nodes 4 --ntasks-per-node 4 python benchmarks/scaling.py --sizes 4 8 16 --json scaling.json
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from report import report
from turns import WORKLOADS, Side, Workload, interval, ours, ratio, take_turns

from mpitrain.comm import Communicator, world


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(WORKLOADS), default="gpt")
    parser.add_argument("--batch", type=int, help="samples of a microbatch; by default the model's own")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of ranks; by default 1, 2, 4, ... and all")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds")
    parser.add_argument("--steps", type=int, default=3, help="steps in a round")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--png", type=Path, help="file to draw the curves to; needs matplotlib (the extra `plot`)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps, to see that it runs")
    args = parser.parse_args()
    world().run(lambda comm: as_rank(comm, args))


def as_rank(comm: Communicator, args: argparse.Namespace) -> None:
    """One rank's part; rank 0 reports."""
    workload = WORKLOADS[args.model](quick=args.quick)
    workload = replace(workload, batch=args.batch or workload.batch)
    sizes = chosen_sizes(comm.size, args.sizes)
    weak = {size: ours(f"weak {size}", comm, size, workload) for size in sizes}
    strong = {
        size: ours(f"strong {size}", comm, size, workload, microbatches=sizes[-1] // size) for size in sizes if size < sizes[-1]
    }
    take_turns(comm, [*weak.values(), *strong.values()], warm=1, rounds=2 if args.quick else args.rounds, steps=args.steps)
    strong[sizes[-1]] = weak[sizes[-1]]  # the same by definition
    hosts = count_hosts(comm)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    crowded = comm.same_host().size > cores
    if comm.rank > 0:
        return
    curves = {"weak": weak, "strong": strong}
    rows = [row for curve, sides in curves.items() for row in rows_of(curve, sides, workload, crowded=crowded)]
    headline = {
        f"{curve}_efficiency_{sizes[-1]}": sides_efficiency(curve, sides)[sizes[-1]][0] for curve, sides in curves.items()
    }
    print(f"{comm.size} ranks on {hosts} hosts, model {workload.name}, {workload.batch} samples a microbatch")
    report(headline | {"ranks": comm.size, "hosts": hosts}, rows, json_path=args.json)
    if args.png:
        draw(rows, args.png)


def chosen_sizes(ranks: int, wanted: Sequence[int] | None) -> list[int]:
    """`wanted`, or the powers of two below `ranks` and `ranks`.  `ValueError` where the largest is no multiple of another."""
    sizes = sorted(set(wanted or [2**k for k in range(ranks.bit_length()) if ranks % 2**k == 0] + [ranks]))
    if sizes[0] < 1 or sizes[-1] > ranks:
        raise ValueError(f"sizes {sizes} do not fit this job of {ranks} ranks; expected 1 to {ranks}")
    odd = [size for size in sizes if sizes[-1] % size]
    if odd:
        raise ValueError(f"size {odd[0]} does not divide {sizes[-1]}, so strong scaling could not split its batch evenly")
    return sizes


def sides_efficiency(curve: str, sides: Mapping[int, Side]) -> dict[int, tuple[float, float, float]]:
    """For each size its efficiency against the smallest: median, low, high."""
    smallest = min(sides)
    found = {}
    for size, side in sides.items():
        share = 1.0 if curve == "weak" else smallest / size  # of the smallest size's work that a rank of this one does
        rounds = [share * r for r in ratio(sides[smallest].seconds, side.seconds)]
        found[size] = (statistics.median(rounds), *interval(rounds))
    return found


def rows_of(curve: str, sides: Mapping[int, Side], workload: Workload, *, crowded: bool) -> list[dict[str, Any]]:
    """One row a size."""
    efficiency = sides_efficiency(curve, sides)
    rows = []
    for size, side in sorted(sides.items()):
        samples = workload.batch * (size if curve == "weak" else max(sides))
        low, high = interval(side.seconds)
        rows.append(
            {
                "curve": curve,
                "ranks": size,
                "per s": samples * workload.units / side.median,
                "ms/step": 1e3 * side.median,
                "ms low": 1e3 * low,
                "ms high": 1e3 * high,
                "efficiency": efficiency[size][0],
                "low": efficiency[size][1],
                "high": efficiency[size][2],
                "more ranks than cores": "yes" if crowded else "no",
            }
        )
    return rows


def count_hosts(comm: Communicator) -> int:
    """How many machines the job runs on."""
    name = np.frombuffer(socket.gethostname().encode().ljust(64, b"\0")[:64], np.uint8).copy()
    return len({bytes(row) for row in comm.allgather(name)})


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Efficiency over ranks, with its intervals; 1 is ideal."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for curve in ("weak", "strong"):
        mine = [row for row in rows if row["curve"] == curve]
        middle = [row["efficiency"] for row in mine]
        below = [row["efficiency"] - row["low"] for row in mine]
        above = [row["high"] - row["efficiency"] for row in mine]
        axes.errorbar([row["ranks"] for row in mine], middle, yerr=[below, above], marker="o", capsize=4, label=curve)
    axes.axhline(1.0, color="0.7", linewidth=1)
    axes.set(xscale="log", xlabel="ranks", ylabel="efficiency", ylim=(0, None))
    axes.set_xticks([row["ranks"] for row in rows], [str(row["ranks"]) for row in rows], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
