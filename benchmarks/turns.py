"""Sides that take turns in one job, so that whatever else the machine does strikes all of them; and what they train.

Invariant: while one side runs, the ranks that have no part in it sleep; a round's time is that of its slowest rank.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from step import BATCH, LR, QUICK_SIZES, SIZES

from mpitrain import Layout, Mesh, Trainer
from mpitrain.comm import Communicator, Reduction
from mpitrain.comm.communicator import T
from mpitrain.data import ArrayDataset, Dataset, TokenDataset
from mpitrain.nn import Model
from mpitrain.nn.models import GPT, MLP
from mpitrain.observe import StepReport
from mpitrain.optim import SGD, AdamW, Optimizer

#: Kinds of action whose time is shown.
PHASES = ("F", "B", "REDUCE", "TALLY", "STEP")


@dataclass(frozen=True, slots=True)
class Members:
    """The ranks of a group as a world, of which this process is one."""

    comm: Communicator

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.comm.size

    @property
    def leads(self) -> bool:
        """Whether this process is the group's rank 0."""
        return self.comm.rank == 0

    def run(self, function: Callable[[Communicator], T]) -> list[T]:
        """Call `function` for this process's rank; a list of one result."""
        return [function(self.comm)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is trained: `batch` samples a rank, each of `units` tokens or of one sample."""

    name: str
    model: Callable[[], Model]
    optimizer: Optimizer
    data: Dataset
    batch: int
    units: int


def gpt(*, quick: bool) -> Workload:
    """The GPT of `step.py`."""
    sizes = QUICK_SIZES if quick else SIZES
    tokens = np.random.default_rng(0).integers(0, sizes["vocab"], 200 * sizes["context"] + 1).astype(np.uint8)
    data = TokenDataset(tokens, sizes["context"])
    return Workload(
        name="gpt", model=lambda: GPT(**sizes), optimizer=AdamW(lr=LR), data=data, batch=BATCH, units=sizes["context"]
    )


def mlp(*, quick: bool) -> Workload:
    """Three matrices of 2048 x 2048 and few samples: 12.6 million gradients, of which each comes from 32 products."""
    width = 64 if quick else 2048
    random = np.random.default_rng(0)
    data = ArrayDataset(random.standard_normal((1024, width), np.float32), random.integers(0, width, 1024))
    return Workload(
        name="mlp",
        model=lambda: MLP(sizes=(width,) * 4),
        optimizer=SGD(lr=1e-3, momentum=0.9),
        data=data,
        batch=8 if quick else 32,
        units=1,
    )


WORKLOADS = {"gpt": gpt, "mlp": mlp}


@dataclass(kw_only=True, slots=True)
class Side:
    """Something that the ranks of `comm` do a step of together; `None` where this rank has no part in it."""

    name: str
    comm: Communicator | None
    #: Takes that many steps and returns their losses on this rank.
    run: Callable[[int], list[float]] | None
    #: Seconds a step of each round, the same on every rank.
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    #: Of each step, the seconds that each kind of action took; rank 0 has them.
    phases: list[Mapping[str, float]] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.seconds)

    def phase_medians(self) -> dict[str, float]:
        """Milliseconds a step in each kind of action on this rank; empty for what is not ours."""
        return {f"{kind} ms": 1e3 * statistics.median(step[kind] for step in self.phases) for kind in PHASES if self.phases}


def ours(
    name: str,
    comm: Communicator,
    ranks: int,
    workload: Workload,
    *,
    microbatches: int = 1,
    overlap: bool = True,
    **settings: object,
) -> Side:
    """Data-parallel training by the first `ranks` ranks of `comm`, each with `microbatches` of `workload.batch` samples.

    Collective over `comm`.
    """
    inside = comm.rank < ranks
    group = comm.group(range(ranks) if inside else range(ranks, comm.size))
    side = Side(name=name, comm=group if inside else None, run=None)
    if not inside:
        return side
    trainer = Trainer(
        workload.model(),
        workload.optimizer,
        workload.data,
        mesh=Mesh(Members(group), Layout(dp=ranks)),
        batch=workload.batch * microbatches * ranks,
        microbatches=microbatches,
        overlap=overlap,
        **settings,  # type: ignore[arg-type]  # a benchmark's own variations
    )
    worker = trainer.workers[group.rank]

    def note(report: StepReport | None = None) -> None:
        spent = dict.fromkeys(PHASES, 0.0)
        for measured in worker.measured:
            if measured.action.kind.value in spent:
                spent[measured.action.kind.value] += measured.end - measured.begin
        side.phases.append(spent)

    def run(steps: int) -> list[float]:
        return [metrics.loss for metrics in trainer.fit(steps, report=note)]

    side.run = run
    return side


def take_turns(comm: Communicator, sides: Sequence[Side], *, warm: int, rounds: int, steps: int) -> None:
    """`rounds` times, after `warm` ones that are not counted, let each side take `steps` steps; the first side changes."""
    for number in range(warm + rounds):
        elapsed = np.zeros(len(sides))
        for i in ((number + k) % len(sides) for k in range(len(sides))):
            sleeping_barrier(comm)
            side = sides[i]
            if side.comm is None or side.run is None:
                continue
            side.comm.barrier()
            begin = time.perf_counter()
            losses = side.run(steps)
            elapsed[i] = (time.perf_counter() - begin) / steps
            side.losses += losses
        sleeping_barrier(comm)
        comm.allreduce(elapsed, Reduction.MAX)
        for side, seconds in zip(sides, elapsed.tolist(), strict=True):
            if number < warm:
                side.phases.clear()
            else:
                side.seconds.append(seconds)


def sleeping_barrier(comm: Communicator, nap_s: float = 1e-3) -> None:
    """A barrier whose waiting ranks leave their cores free: in round k, rank r hears from r - 2^k.

    Hensgen, Finkel and Manber 1988, "Two algorithms for barrier synchronization".
    """
    word, sent = np.zeros(1, np.uint8), []
    for k in range(math.ceil(math.log2(comm.size))):
        arriving = comm.irecv(np.zeros(1, np.uint8), (comm.rank - 2**k) % comm.size, tag=k)
        sent.append(comm.isend(word, (comm.rank + 2**k) % comm.size, tag=k))
        while not arriving.done():
            time.sleep(nap_s)
    for request in sent:
        request.wait()


def ratio(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Round by round, how many times as long `slow` took as `fast`: a slow moment of the machine is in both."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def interval(values: Sequence[float], *, draws: int = 2000) -> tuple[float, float]:
    """The 95 % confidence interval of the median, by the percentile bootstrap (Efron 1979)."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (draws, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)
