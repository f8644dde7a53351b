"""What reproducible sums cost: a step with them and without, on 2 ranks and on 1, of one thread each.

Invariant: all sides train in the same MPI processes and take steps in turn, from the same weights on the same samples in the
same microbatches; the ratios are medians over rounds.  The two reproducible sides, on 2 ranks and on 1, must have equal losses,
bit for bit, and it is counted in how many steps those of the two plain ones differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from report import report
from turns import WORKLOADS, interval, ours, ratio, take_turns

from mpitrain.comm import Communicator, launch
from mpitrain.comm.start import world


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(WORKLOADS), action="append", help="by default both")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of 3 steps")
    parser.add_argument("--quick", action="store_true", help="tiny models and few steps, to see that it runs")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    models = args.model or sorted(WORKLOADS)
    if args.rank_of:
        for model in models:
            world().run(lambda comm, name=model: as_rank(comm, name, args))
        return
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    rows, headline = [], {}
    with tempfile.TemporaryDirectory(prefix="mpitrain-benchmark-") as folder:
        if code := launch(2, [__file__, *sys.argv[1:], "--rank-of", folder]):
            sys.exit(code)
        for model in models:
            found = json.loads(Path(folder, f"{model}.json").read_text())
            rows += found["rows"]
            headline |= found["headline"]
    if "cost_ratio_gpt_2" in headline:
        headline = {"cost_ratio": headline["cost_ratio_gpt_2"]} | headline
    report(headline, rows, json_path=args.json)


def as_rank(comm: Communicator, name: str, args: argparse.Namespace) -> None:
    """One rank's part in a job that trains model `name`; rank 0 writes what was found."""
    workload = WORKLOADS[name](quick=args.quick)
    # One rank has the microbatches of two.
    sides = {
        (ranks, mode): ours(f"{label}, {ranks}", comm, ranks, workload, microbatches=2 // ranks, reproducible=mode)
        for ranks in (2, 1)
        for mode, label in ((False, "plain"), (True, "reproducible"))
    }
    take_turns(comm, list(sides.values()), warm=1, rounds=2 if args.quick else args.rounds, steps=3)
    if comm.rank > 0:
        return
    assert sides[2, True].losses == sides[1, True].losses, "reproducible sums gave other losses on 1 rank than on 2"
    differing = sum(a != b for a, b in zip(sides[2, False].losses, sides[1, False].losses, strict=True))
    rows, headline = [], {}
    for (ranks, mode), side in sides.items():
        cost = ratio(side.seconds, sides[ranks, False].seconds)
        row = {"model": name, "side, ranks": side.name, "ms/step": 1e3 * side.median, "fastest": 1e3 * min(side.seconds)}
        row |= {"cost": statistics.median(cost), "from": interval(cost)[0], "to": interval(cost)[1]}
        rows.append(row | side.phase_medians())
        if mode:
            headline[f"cost_ratio_{name}_{ranks}"] = statistics.median(cost)
    headline[f"plain_losses_that_differ_{name}"] = differing / len(sides[2, False].losses)
    (args.rank_of / f"{name}.json").write_text(json.dumps({"headline": headline, "rows": rows}))


if __name__ == "__main__":
    main()
