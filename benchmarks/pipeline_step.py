"""Tokens a second of a GPT in a pipeline of two ranks, beside two replicas and beside torch's Schedule1F1B over gloo.

Invariant: all sides run in the same MPI processes with one thread a rank and take turns, from the same weights on the same
samples; their losses are compared.  A step is of 8 samples: 8 microbatches of one in a pipeline, 4 a replica.  The output layer
shares the embedding's table, so the ends of a pipeline sum its gradient; torch's side does that by hand.

Headline: `tokens_per_second` of pp=2 with 1F1B; `pp_over_dp` and `ratio_torch`, how many times as many tokens a second that is
as with dp=2 and with torch's Schedule1F1B, medians over the rounds.  1F1B's bubble alone makes `pp_over_dp` at most 8/9 here,
and a microbatch of one sample has smaller matrices than a replica's four.  A round takes 5 seconds on two idle cores; with
other work beside it, ranks that wait for a message keep the core that the sender needs, and it takes several times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from report import report
from step import LR, QUICK_SIZES, SIZES, torch_step
from turns import Members, Side, Workload, gpt, interval, ratio, take_turns

from mpitrain import Layout, Mesh, Trainer
from mpitrain.comm import Communicator, launch
from mpitrain.comm.start import world
from mpitrain.data import Sampler

RANKS, MICROBATCHES = 2, 8


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=["torch"], help="what to compare with")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of 2 steps")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps, to see that it runs")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        world().run(lambda comm: as_rank(comm, args))
        return
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory(prefix="mpitrain-benchmark-") as folder:
        if code := launch(RANKS, [__file__, *sys.argv[1:], "--rank-of", folder]):
            sys.exit(code)
        found = json.loads(Path(folder, "found.json").read_text())
    report(found["headline"], found["rows"], json_path=args.json)


def as_rank(comm: Communicator, args: argparse.Namespace) -> None:
    """One rank's part; rank 0 writes what was found."""
    workload = gpt(quick=args.quick)
    sides = [
        ours("pp=2 1f1b", comm, workload, Layout(pp=2), "1f1b"),
        ours("pp=2 zb_h1", comm, workload, Layout(pp=2), "zb_h1"),
        ours("dp=2", comm, workload, Layout(dp=2), "1f1b"),
    ]
    if args.peer:
        sides.append(torch_side(comm, workload, args.rank_of, quick=args.quick))
    take_turns(comm, sides, warm=1, rounds=2 if args.quick else args.rounds, steps=2)
    tokens = MICROBATCHES * workload.units
    rows = [
        {
            "side": side.name,
            "tokens/s": tokens / side.median,
            "ms/step": 1e3 * side.median,
            "from": 1e3 * interval(side.seconds)[0],
            "to": 1e3 * interval(side.seconds)[1],
            "last loss": side.losses[-1],
        }
        for side in sides
    ]
    pipeline, _, replicas, *peer = sides
    headline = {
        "tokens_per_second": rows[0]["tokens/s"],
        "pp_over_dp": statistics.median(ratio(replicas.seconds, pipeline.seconds)),
    }
    if peer:
        headline["ratio_torch"] = statistics.median(ratio(peer[0].seconds, pipeline.seconds))
    if comm.rank == 0:
        difference = max(np.ptp(losses) for losses in zip(*(side.losses for side in sides), strict=True))
        assert difference < 1e-2, f"the sides do not train the same model: their losses are up to {difference} apart"
        headline["largest_loss_difference"] = float(difference)
        (args.rank_of / "found.json").write_text(json.dumps({"headline": headline, "rows": rows}))


def ours(name: str, comm: Communicator, workload: Workload, layout: Layout, schedule: str) -> Side:
    """Training by our engine; collective."""
    trainer = Trainer(
        workload.model(),
        workload.optimizer,
        workload.data,
        mesh=Mesh(Members(comm.group(range(comm.size))), layout),
        schedule=schedule,
        batch=MICROBATCHES,
        microbatches=MICROBATCHES if layout.pp > 1 else 1,
    )

    def run(steps: int) -> list[float]:
        return [metrics.loss for metrics in trainer.fit(steps, report=lambda report=None: None)]

    return Side(name=name, comm=comm, run=run)


def torch_side(comm: Communicator, workload: Workload, folder: Path, *, quick: bool) -> Side:
    """The same of torch: the model of `step.py` cut in the middle, its losses on both ranks."""
    import torch
    from torch import distributed, nn
    from torch.distributed import pipelining
    from torch.nn import functional

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=comm.rank, world_size=comm.size)
    whole: list[Any] = []

    def keep(model: Any) -> Any:
        whole.append(model)
        return model

    torch_step(QUICK_SIZES if quick else SIZES, keep)
    model = whole[0]
    middle = len(model.blocks) // 2

    class Front(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions, self.blocks = model.tokens, model.positions, model.blocks[:middle]

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return x

    class Back(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.norm, self.tokens = model.blocks[middle:], model.norm, model.tokens

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return functional.linear(self.norm(x), self.tokens.weight)

    part = Front() if comm.rank == 0 else Back()
    groups = [
        {"params": [p for p in part.parameters() if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in part.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    stage = pipelining.PipelineStage(part, comm.rank, RANKS, torch.device("cpu"))

    def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    schedule = pipelining.Schedule1F1B(stage, MICROBATCHES, loss_fn=loss_of)
    sampler = Sampler(len(workload.data))
    position = sampler.start()

    def run(steps: int) -> list[float]:
        nonlocal position
        found = []
        for _ in range(steps):
            numbers, position = sampler.take(position, MICROBATCHES)
            inputs, targets = (torch.from_numpy(x.astype(np.int64)) for x in workload.data.batch(numbers))
            optimizer.zero_grad(set_to_none=True)
            losses: list[torch.Tensor] = []
            if comm.rank == 0:
                schedule.step(inputs, return_outputs=False)
            else:
                schedule.step(target=targets, losses=losses, return_outputs=False)
            distributed.all_reduce(model.tokens.weight.grad)
            optimizer.step()
            loss = torch.stack(losses).mean().detach() if losses else torch.zeros(())
            distributed.all_reduce(loss)
            found.append(loss.item())
        return found

    return Side(name="torch 1f1b", comm=comm, run=run)


if __name__ == "__main__":
    main()
