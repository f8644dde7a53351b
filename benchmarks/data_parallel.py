"""Tokens a second of data-parallel training, beside torch's DistributedDataParallel over gloo, with one thread a rank.

Invariant: both sides train in the same MPI processes and take steps in turn, from the same weights on the same samples; their
losses are compared.  torch runs its fused optimizers, with gradients as views of buckets.  The ratios are medians over rounds
of torch's time by ours.  Beside the comparison: the efficiency of 2 ranks against 1, which runs alone on the machine in its
turns (weak: the same samples a rank; strong: the same samples a step), and that of 4, which share the cores of a small
machine.  `--peer torch` needs torch; `REDUCE ms` is what backward could not hide.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import report
from step import QUICK_SIZES, SIZES, torch_step
from turns import WORKLOADS, Side, Workload, interval, ours, ratio, take_turns

from mpitrain.arrays import Arrays
from mpitrain.comm import Communicator, launch
from mpitrain.comm.start import world
from mpitrain.data import Sampler, share


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=["torch"], help="what to compare with")
    parser.add_argument("--model", choices=sorted(WORKLOADS), action="append", help="by default both")
    parser.add_argument("--ranks", type=int, action="append", help="by default 2 and 4; torch runs beside 2")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of 3 steps")
    parser.add_argument("--quick", action="store_true", help="tiny models and few steps, to see that it runs")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        for model in args.model or WORKLOADS:
            world().run(lambda comm, name=model: as_rank(comm, name, args))
        return
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rows, headline = [], {}
    for ranks in args.ranks or (2, 4):
        with tempfile.TemporaryDirectory(prefix="mpitrain-benchmark-") as folder:
            if code := launch(ranks, [__file__, *sys.argv[1:], "--rank-of", folder]):
                sys.exit(code)
            for model in args.model or WORKLOADS:
                found = json.loads(Path(folder, f"{model}.json").read_text())
                rows += found["rows"]
                headline |= found["headline"]
    report(headline, rows, json_path=args.json)


def as_rank(comm: Communicator, name: str, args: argparse.Namespace) -> None:
    """One rank's part in a job that trains model `name`; rank 0 writes what was found."""
    workload = WORKLOADS[name](quick=args.quick)
    together = ours("mpitrain", comm, comm.size, workload)
    alone = ours("1 rank, samples of one", comm, 1, workload)
    alone_strong = ours("1 rank, samples of all", comm, 1, workload, microbatches=comm.size)
    sides = [together, alone, alone_strong]
    cores = len(os.sched_getaffinity(0))
    oversubscribed = comm.size > cores
    if args.peer and comm.size == 2:
        sides.insert(1, torch_side(comm, workload, args.rank_of, quick=args.quick))
    take_turns(comm, sides, warm=1, rounds=2 if args.quick else args.rounds, steps=3)
    label = f"{comm.size}, oversubscribed" if oversubscribed else str(comm.size)
    units = {side.name: workload.batch * workload.units for side in sides}
    units["mpitrain"] = units["torch"] = units["1 rank, samples of all"] = comm.size * workload.batch * workload.units
    rows = [
        {
            "model": name,
            "side": side.name,
            "job's ranks": label,
            "per s": units[side.name] / side.median,
            "ms/step": 1e3 * side.median,
            "fastest": 1e3 * min(side.seconds),
            "from": 1e3 * interval(side.seconds)[0],
            "to": 1e3 * interval(side.seconds)[1],
            **side.phase_medians(),
        }
        for side in sides
    ]
    suffix = f"{name}_{comm.size}" + ("_oversubscribed" if oversubscribed else "")
    headline = {
        f"weak_efficiency_{suffix}": statistics.median(ratio(alone.seconds, together.seconds)),
        f"strong_efficiency_{suffix}": statistics.median(ratio(alone_strong.seconds, together.seconds)) / comm.size,
    }
    if args.peer and comm.size == 2:
        peer = sides[1]
        difference = np.array([abs(a - b) for a, b in zip(together.losses, mean_losses(comm, peer), strict=True)]).max()
        assert difference < 1e-2, f"the two sides do not train the same model: their losses are up to {difference} apart"
        headline = {f"ratio_torch_{name}": statistics.median(ratio(peer.seconds, together.seconds))} | headline
        headline[f"largest_loss_difference_{name}"] = float(difference)
    if comm.rank == 0:
        (args.rank_of / f"{name}.json").write_text(json.dumps({"headline": headline, "rows": rows}))


def mean_losses(comm: Communicator, side: Side) -> np.ndarray:
    """The mean over the ranks of each step's loss."""
    losses = np.array(side.losses)
    comm.allreduce(losses)
    return losses / comm.size


def torch_side(comm: Communicator, workload: Workload, folder: Path, *, quick: bool) -> Side:
    """The same of torch, over gloo."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    if not distributed.is_initialized():
        store = f"file://{folder}/store"
        distributed.init_process_group("gloo", init_method=store, rank=comm.rank, world_size=comm.size)

    def replicated(model: torch.nn.Module) -> torch.nn.Module:
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    makers: dict[str, Callable[[], Callable[[Any, Any], float]]] = {
        "gpt": lambda: _torch_gpt(replicated, QUICK_SIZES if quick else SIZES),
        "mlp": lambda: _torch_mlp(replicated, workload),
    }
    step = makers[workload.name]()
    sampler = Sampler(len(workload.data))
    position = sampler.start()

    def run(steps: int) -> list[float]:
        nonlocal position
        losses = []
        for _ in range(steps):
            numbers, position = sampler.take(position, workload.batch * comm.size)
            ((first, last),) = share(len(numbers), comm.size, comm.rank, 1)
            losses.append(step(*workload.data.batch(numbers[first:last])))
        return losses

    return Side(name="torch", comm=comm, run=run)


def _torch_gpt(replicated: Callable[[Any], Any], sizes: dict[str, int]) -> Callable[[Any, Any], float]:
    step = torch_step(sizes, replicated)
    return lambda inputs, targets: step(np.concatenate([inputs, targets[:, -1:]], axis=1).astype(np.int64))


def _torch_mlp(replicated: Callable[[Any], Any], workload: Workload) -> Callable[[Any, Any], float]:
    import torch
    from torch import nn

    mine = workload.model()
    mine.materialize(Arrays(), np.dtype(np.float32), seed=0)
    arrays = [torch.from_numpy(p.data) for p in mine.parameters()]
    layers: list[nn.Module] = []
    for weight in arrays[::2]:
        layers += [nn.Linear(weight.shape[1], weight.shape[0]), nn.ReLU()]
    plain = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter, array in zip(plain.parameters(), arrays, strict=True):
            parameter.copy_(array)
    optimizer = torch.optim.SGD(plain.parameters(), lr=workload.optimizer.lr, momentum=0.9, fused=True)
    model = replicated(plain)

    def step(inputs: np.ndarray, targets: np.ndarray) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(torch.from_numpy(inputs)), torch.from_numpy(targets))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
