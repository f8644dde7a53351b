"""The makespan of pipeline schedules over the ideal of each, and beside torch.distributed.pipelining's, with stages that sleep.

Invariant: both sides run in the same MPI processes and take turns, with the same sleeps and payloads, through the executor
that training goes through (ours: `Compute`, `Transfers`, `execute`; torch's: its stages and schedules over gloo).  A stage
only sleeps, so more ranks than cores disturb each other as little as the machine allows, and all time over the ideal is what
an engine costs: messages, waiting, Python.  The ideal is the schedule's own order, simulated with the same sleeps and messages
that take no time.  With two chunks a rank, each chunk sleeps half as long.  Makespans run from a start that all ranks agree on
to the end of the last rank, on the machine's one clock, and are medians over the rounds.  Where ranks share cores, these are
kept awake, unless `--let-idle` is given.

The column `mpi/ideal` says how much of it MPI takes for itself: the same order simulated with messages that cost what they do
without an engine here, in sending, on the way, and in receiving.  It is an estimate and no floor: the costs are measured once,
at the start, and an engine may receive a message while it computes.

torch's zero-bubble schedules put off the whole backward pass of the first stage to the time of its weights; the sleeps add up
to the same.  ScheduleInterleavedZeroBubble with one stage a rank is its ZB-H1.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pipeline_pass import executor
from pipeline_torch import TORCH, join_torch, torch_pass
from report import report
from sleeping import SleepingLayer, awake, sleep

from mpitrain.arrays import keep_freed_pages
from mpitrain.comm import Communicator, Reduction, launch
from mpitrain.comm.start import world
from mpitrain.program import (
    SCHEDULES,
    Costs,
    Program,
    Schedule,
    add_transfers,
    automatic,
    custom,
    owners,
    simulate,
)

#: Milliseconds of forward, input gradient, weight gradient, of all that a rank has of a microbatch.
SLEEPS = {"20/20/20": (20, 20, 20), "20/20/10": (20, 20, 10), "10/25/15": (10, 25, 15)}
RANKS, MICROBATCHES = (4, 8), (8, 16, 32)
#: Elements of float32 that cross between two stages: 1 MiB.
PAYLOAD = 1 << 18
AUTOMATIC = "automatic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One schedule of one size; `seconds` are those of forward, input gradient and weight gradient of a stage."""

    ranks: int
    schedule: str
    sleeps: str
    microbatches: int
    order: Schedule
    seconds: tuple[float, float, float]

    @property
    def owner(self) -> dict[int, int]:
        """The rank of each stage."""
        return owners(self.order)

    @property
    def program(self) -> Program:
        """What the ranks do."""
        return add_transfers(self.order)

    def ideal(self, **messages: Sequence[float]) -> float:
        """Seconds of the makespan if nothing but the sleeps, and what `messages` say, took time."""
        forward, input_grad, weight_grad = ((part,) for part in self.seconds)
        costs = Costs(forward=forward, input_grad=input_grad, weight_grad=weight_grad, **messages)
        return simulate(self.program, costs).makespan


#: Runs a pass on this rank; the sleeps are multiplied by its argument.
Pass = Callable[[float], None]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=["torch"], help="what to compare with")
    parser.add_argument("--ranks", type=int, action="append", help=f"by default {RANKS}")
    parser.add_argument("--microbatches", type=int, action="append", help=f"by default {MICROBATCHES}")
    parser.add_argument("--schedule", choices=[*SCHEDULES, AUTOMATIC], action="append", help="by default all")
    parser.add_argument("--sleeps", choices=list(SLEEPS), action="append", help="by default all")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each case")
    parser.add_argument("--let-idle", action="store_true", help="let idle cores sleep, and come back late and cold")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--quick", action="store_true", help="2 ranks, 4 microbatches, a tenth of the sleeps, one round")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        world().run(lambda comm: as_rank(comm, args))
        return
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rows = []
    for ranks in args.ranks or ((2,) if args.quick else RANKS):
        with tempfile.TemporaryDirectory(prefix="mpitrain-benchmark-") as folder:
            write_automatic(Path(folder), ranks, args)
            busy = ranks <= len(os.sched_getaffinity(0))  # who has a core waits busily
            with nullcontext() if busy or args.let_idle else awake():
                code = launch(ranks, [__file__, *sys.argv[1:], "--rank-of", folder])
            if code:
                sys.exit(code)
            rows += json.loads(Path(folder, "rows.json").read_text())
    headline = {}
    for ranks in sorted({row["ranks"] for row in rows}):
        for column, name in (("ours/ideal", "over_ideal"), ("mpi/ideal", "mpi_over_ideal")):
            found = [row[column] for row in rows if row["ranks"] == ranks]
            headline |= {f"worst_{name}_p{ranks}": max(found), f"median_{name}_p{ranks}": statistics.median(found)}
    if found := [row["ours/torch"] for row in rows if "ours/torch" in row]:
        headline |= {"worst_over_torch": max(found), "median_over_torch": statistics.median(found)}
    report(headline, rows, json_path=args.json)


def sizes(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Schedule, sleeps and microbatches of each case that the command line asks for."""
    for schedule in args.schedule or [*SCHEDULES, AUTOMATIC]:
        for sleeps in args.sleeps or (["20/20/10"] if args.quick else SLEEPS):
            for microbatches in args.microbatches or ([4] if args.quick else MICROBATCHES):
                yield schedule, sleeps, microbatches


def write_automatic(folder: Path, ranks: int, args: argparse.Namespace) -> None:
    """Search once for all ranks: one stage a rank, which may hold as many activations as in ZB-H1."""
    for schedule, sleeps, microbatches in sizes(args):
        if schedule == AUTOMATIC:
            forward, input_grad, weight_grad = ((part,) for part in SLEEPS[sleeps])
            costs = Costs(forward=forward, input_grad=input_grad, weight_grad=weight_grad)
            found = automatic(range(ranks), microbatches, costs=costs, limits=[ranks] * ranks)
            with automatic_file(folder, sleeps, microbatches).open("w", newline="") as file:
                csv.writer(file).writerows(found)


def automatic_file(folder: Path, sleeps: str, microbatches: int) -> Path:
    """Where the order that the search found is."""
    return folder / f"{sleeps.replace('/', '-')}-{microbatches}.csv"


def as_rank(comm: Communicator, args: argparse.Namespace) -> None:
    """One rank's part; rank 0 writes what was found."""
    keep_freed_pages()  # as in training
    if args.peer:
        join_torch(comm, args.rank_of)
    gc.collect()
    gc.freeze()  # a collection that walks all of torch takes longer than a microbatch
    messages = message_costs(comm)
    cases = [case_of(comm.size, name, sleeps, microbatches, args) for name, sleeps, microbatches in sizes(args)]
    measured: list[dict[str, list[float]]] = [{} for _ in cases]
    # Round by round through all cases: what else the machine does for some seconds strikes a case once.
    for number in range(1 if args.quick else args.rounds):
        for case, found in zip(cases, measured, strict=True):
            sides = {"ours": ours(comm, case)}
            # torch's DualPipeV asks for as many microbatches as stages
            if args.peer and case.schedule in TORCH and (case.schedule != "dualpipe_v" or case.microbatches >= 2 * comm.size):
                sides["torch"] = torch_side(comm, case)
            for side, seconds in zip(sides, take_turns(comm, list(sides.values()), number), strict=True):
                found.setdefault(side, []).append(seconds)
    rows = [
        row_of(case, messages, {side: statistics.median(seconds) for side, seconds in found.items()})
        for case, found in zip(cases, measured, strict=True)
    ]
    if comm.rank == 0:
        (args.rank_of / "rows.json").write_text(json.dumps(rows))


def case_of(ranks: int, name: str, sleeps: str, microbatches: int, args: argparse.Namespace) -> Case:
    """A case of those that the command line asks for."""
    file = automatic_file(args.rank_of, sleeps, microbatches)
    schedule = partial(custom, file=file) if name == AUTOMATIC else SCHEDULES[name]
    order = schedule(ranks, microbatches)
    unit = len(owners(order)) // ranks * (1e4 if args.quick else 1e3)
    forward, input_grad, weight_grad = (ms / unit for ms in SLEEPS[sleeps])
    return Case(
        ranks=ranks,
        schedule=name,
        sleeps=sleeps,
        microbatches=microbatches,
        order=order,
        seconds=(forward, input_grad, weight_grad),
    )


def message_costs(comm: Communicator, times: int = 20) -> dict[str, Sequence[float]]:
    """Seconds of a message between neighbours that have slept, as `Costs` has them; medians over all pairs.

    Of the call that sends it, of its way from there to a rank that waits for it, and of its receipt by one that comes late.
    """
    x, late = (np.ones(PAYLOAD, np.float32) for _ in range(2))
    before, after = comm.rank - 1, comm.rank + 1
    found = []
    for _ in range(times):
        if before >= 0:
            comm.irecv(x, before, 0).wait()
        arrived = time.perf_counter()
        coming = comm.irecv(late, before, 1) if before >= 0 else None
        sleep(0.02)
        sending = time.perf_counter()
        requests = [comm.isend(x, after, 0)] if after < comm.size else []
        sent = time.perf_counter()
        sleep(0.03)  # within it the rank before sends what is late
        asking = time.perf_counter()
        if coming:
            coming.wait()
        received = time.perf_counter()
        requests += [comm.isend(x, after, 1)] if after < comm.size else []
        for request in requests:
            request.wait()
        everyone = comm.allgather(np.array([sent - sending, sending, arrived, received - asking]))
        found.append([everyone[:-1, 0], everyone[1:, 2] - everyone[:-1, 1], everyone[1:, 3]])
    send, message, receive = np.median(np.concatenate(found, 1), 1)
    return {"send": (send,), "transfer": (max(0.0, message - send - receive),), "receive": (receive,)}


def row_of(case: Case, messages: Mapping[str, Sequence[float]], makespans: Mapping[str, float]) -> dict[str, Any]:
    """A line of the table, from each side's makespan in seconds."""
    ideal = case.ideal()
    row: dict[str, Any] = {
        "ranks": case.ranks,
        "schedule": case.schedule,
        "sleeps": case.sleeps,
        "microbatches": case.microbatches,
        "ideal ms": 1e3 * ideal,
        "mpi/ideal": case.ideal(**messages) / ideal,
    }
    row |= {f"{side} ms": 1e3 * seconds for side, seconds in makespans.items()}
    row |= {f"{side}/ideal": seconds / ideal for side, seconds in makespans.items()}
    if "torch" in makespans:
        row["ours/torch"] = makespans["ours"] / makespans["torch"]
    return row


def take_turns(comm: Communicator, sides: Sequence[Pass], number: int) -> list[float]:
    """Each side's makespan in round `number`, the same on every rank, after two passes without sleeps for what it keeps."""
    for side in (*sides, *sides):
        comm.barrier()
        side(0.0)
    found = [0.0 for _ in sides]
    for i in ((number + k) % len(sides) for k in range(len(sides))):
        start = np.array([time.perf_counter() + 0.02])
        comm.allreduce(start, Reduction.MAX)
        sleep(start[0] - time.perf_counter())
        sides[i](1.0)
        end = np.array([time.perf_counter()])
        comm.allreduce(end, Reduction.MAX)
        found[i] = float(end[0] - start[0])
    return found


def ours(comm: Communicator, case: Case) -> Pass:
    """This rank's part of the case by our executor."""
    scale = [1.0]
    layer = partial(SleepingLayer, case.seconds, scale)
    run_pass = executor(comm, case.order, case.microbatches, layer, PAYLOAD)

    def run(times: float) -> None:
        scale[0] = times
        run_pass()

    return run


def torch_side(comm: Communicator, case: Case) -> Pass:
    """This rank's part of the case by torch.distributed.pipelining."""
    scale = [1.0]

    def pause(part: int) -> None:
        sleep(case.seconds[part] * scale[0])

    run_pass = torch_pass(comm.rank, case.owner, case.schedule, case.microbatches, PAYLOAD, pause)

    def run(times: float) -> None:
        scale[0] = times
        run_pass()

    return run


if __name__ == "__main__":
    main()
