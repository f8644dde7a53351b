"""A job that a configuration describes: prepared, run, reported.

Invariant: every rank builds the same job from the same configuration; what is printed and what is written beside the checkpoints
comes from rank 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpitrain.comm import Layout, Mesh, World
from mpitrain.config import Config, dump
from mpitrain.observe import MetricsFile, Progress, StepReport
from mpitrain.plan import Plan, plan
from mpitrain.program import schedule_named
from mpitrain.train import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job that is ready to train."""

    config: Config
    trainer: Trainer
    folder: Path
    #: The checkpoint that it goes on from.
    resumed: Path | None


def planned(config: Config) -> Plan:
    """What `config` will take, without ranks."""
    train, data = config.data.build()
    return plan(
        config.model.build(),
        config.build_optimizer(),
        Layout(**config.layout.model_dump()),
        schedule_named(config.train.schedule),
        microbatches=config.train.microbatches,
        batch=config.train.batch,
        sample=train.batch(_FIRST)[0],
        dtype=config.run.dtype,
    )
