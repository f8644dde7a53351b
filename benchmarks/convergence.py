"""What compression costs in quality and saves in bytes: the same steps of the same job with each compressor, three seeds.

Two replicas in one process.  `mlp-digits` is the recipe's job with a fifth of its learning rate, at which every method is
stable.  `gpt` is a smaller model on the data of `gpt-stdlib`, trained by gradient descent without momentum, which is what the
papers on error feedback analyse; `gpt-adamw` is the same with the recipe's optimizer.  DGC brings the momentum, so its
optimizer has none, at the learning rate of the others.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import report

import mpitrain as mt
from mpitrain.config import load
from mpitrain.observe import StepReport
from mpitrain.optim import SGD, AdamW, LearningRate, Optimizer
from mpitrain.parallel import DGC, EF21, Cast, Compressor, PowerSGD, RandomK, Sign, TopK
from mpitrain.program import Metrics

#: Every method; the first sends all bits, through the same code that counts bytes.
METHODS: dict[str, Compressor] = {
    "none": Cast(dtype="float32"),
    "bfloat16": Cast(dtype="bfloat16"),
    "powersgd r2": PowerSGD(rank=2),
    "top-k 1%": TopK(density=0.01),
    "top-k 1%, no feedback": TopK(density=0.01, error_feedback=False),
    "dgc 1%": DGC(density=0.01, warmup=50),
    "sign": Sign(),
    "random-k 10%": RandomK(density=0.1),
    "ef21 5%": EF21(density=0.05),
}
FEW = ("none", "powersgd r2", "top-k 1%", "top-k 1%, no feedback")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A recipe with changes, an optimizer for each kind of compressor, and the methods that are compared on it."""

    recipe: str
    overrides: tuple[str, ...]
    steps: int
    optimizer: Callable[[LearningRate, bool], Optimizer]
    methods: Sequence[str] = tuple(METHODS)


SMALL_GPT = (
    "model.width=64",
    "model.depth=2",
    "model.heads=2",
    "model.context=64",
    "data.context=64",
    "data.megabytes=2",
    "train.batch=8",
    "train.microbatches=1",
)
JOBS = {
    "mlp-digits": Job(
        recipe="mlp-digits",
        overrides=(),
        steps=400,
        optimizer=lambda schedule, dgc: SGD(lr=0.02, momentum=0.0 if dgc else 0.9, weight_decay=1e-4, schedule=schedule),
    ),
    "gpt": Job(
        recipe="gpt-stdlib",
        overrides=SMALL_GPT,
        steps=600,
        optimizer=lambda schedule, dgc: SGD(lr=0.5, schedule=schedule),
    ),
    "gpt-adamw": Job(
        recipe="gpt-stdlib",
        overrides=SMALL_GPT,
        steps=600,
        optimizer=lambda schedule, dgc: AdamW(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, schedule=schedule),
        methods=FEW,
    ),
}
QUICK = {
    "mlp-digits": ("model.sizes=[64, 16, 10]",),
    "gpt": ("model.width=16", "model.depth=1", "data.megabytes=0.5"),
    "gpt-adamw": ("model.width=16", "model.depth=1", "data.megabytes=0.5"),
}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the result to; the plot goes beside it")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, with other weights and another order of samples")
    parser.add_argument("--quick", action="store_true", help="tiny models, few steps, one seed: to see that it runs")
    args = parser.parse_args()
    rows = [
        measure(name, job, method, seeds=1 if args.quick else args.seeds, quick=args.quick)
        for name, job in JOBS.items()
        for method in job.methods
    ]
    report(headline(rows), rows, json_path=args.json)
    if args.json is not None:
        plot(rows, args.json.with_suffix(".png"))


def measure(name: str, job: Job, method: str, *, seeds: int, quick: bool) -> dict[str, Any]:
    """One line of the table."""
    found = [
        train(job, METHODS[method], seed, QUICK[name] if quick else (), 5 if quick else job.steps) for seed in range(seeds)
    ]
    losses = [metrics.loss for metrics, _ in found]
    row = {
        "job": name,
        "method": method,
        "loss": statistics.mean(losses),
        "spread": statistics.stdev(losses) if seeds > 1 else 0.0,
        "accuracy": statistics.mean(metrics.accuracy or 0.0 for metrics, _ in found),
        "KiB/step": found[0][1] / 2**10,
    }
    print(f"{name}, {method}: {row['loss']:.4f}", flush=True)
    return row | {f"seed {seed}": loss for seed, loss in enumerate(losses)}


def train(job: Job, compressor: Compressor, seed: int, overrides: Sequence[str], steps: int) -> tuple[Metrics, float]:
    """The validation metrics after `steps` steps, and the mean bytes that a rank sent in a step."""
    config = load(job.recipe, [*job.overrides, *overrides])
    data, validation = config.data.build()
    trainer = mt.Trainer(
        config.model.build(),
        job.optimizer(config.schedule.build(steps), isinstance(compressor, DGC)),
        data,
        mesh=mt.Mesh(mt.comm.local(2), mt.Layout(dp=2)),
        seed=seed,
        compression=compressor,
        arrays="numpy",
        **config.train.settings(),
    )
    reports: list[StepReport] = []
    trainer.fit(steps, report=reports.append)
    sent = [step.sent_bytes for step in reports if step.sent_bytes is not None]
    return trainer.evaluate(validation, 40), statistics.mean(sent)


def headline(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The worst job's figures of gradient descent, and AdamW's apart."""
    loss = {(row["job"], row["method"]): row["loss"] for row in rows}
    spread = {row["job"]: row["spread"] / row["loss"] for row in rows if row["method"] == "none"}
    gain = {job: loss[job, "top-k 1%, no feedback"] / loss[job, "top-k 1%"] for job in JOBS}
    powersgd = {job: loss[job, "powersgd r2"] / loss[job, "none"] for job in JOBS}
    worst = max(("mlp-digits", "gpt"), key=lambda job: powersgd[job])
    return {
        "topk_ef_gain": min(gain["mlp-digits"], gain["gpt"]),
        "topk_ef_gain_adamw": gain["gpt-adamw"],
        "powersgd_rank2_loss_ratio": powersgd[worst],
        "powersgd_rank2_loss_ratio_adamw": powersgd["gpt-adamw"],
        "seed_spread": spread[worst],
    }


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss against bytes, a panel for each job."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    colors = {method: f"C{i}" for i, method in enumerate(METHODS)}
    figure, panels = pyplot.subplots(1, len(JOBS), figsize=(5 * len(JOBS), 4), layout="constrained")
    for panel, job in zip(panels, JOBS, strict=True):
        for row in (row for row in rows if row["job"] == job):
            color, label = colors[row["method"]], row["method"]
            panel.errorbar(row["KiB/step"], row["loss"], row["spread"], marker="o", capsize=3, color=color, label=label)
        panel.set(xscale="log", xlabel="KiB that a rank sends in a step", ylabel="validation loss", title=job)
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
