"""`Config`: everything that a run is made from, section by section.

Invariant: two runs of one configuration do the same; what differs between machines is not in here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from mpitrain.bounds import Count, NotNegative
from mpitrain.comm import Layout
from mpitrain.config.compression import CompressionSection, NoCompressionSection
from mpitrain.config.data import DataSection
from mpitrain.config.model import ModelSection
from mpitrain.config.optimizer import ConstantSection, OptimizerSection, ScheduleSection
from mpitrain.config.section import Section
from mpitrain.observe import Tracing
from mpitrain.optim import Optimizer
from mpitrain.parallel import check_stages
from mpitrain.program import schedule_named
from mpitrain.settings import Settings
from mpitrain.train import Trainer


def _schedule(name: str) -> str:
    schedule_named(name)
    return name


def _stages(stages: Any) -> Any:
    check_stages(stages)
    return tuple(stages) if isinstance(stages, list) else stages


class RunSection(Section):
    """`[run]`: the run as a whole."""

    describes = (Settings, Trainer)
    name: str
    """What the run is called; by default the file's name."""
    steps: Count
    """Training steps."""
    seed: int = 0
    """Key of all random numbers."""
    dtype: str = "float32"
    """Type of weights and activations."""
    folder: str = "runs/{name}"
    """Where checkpoints, metrics and the resolved configuration go."""
    timeout_s: float = 600.0
    """Seconds after which a rank that waits in one action ends the job."""

    def path(self) -> Path:
        """`folder`, with the name in it."""
        return Path(self.folder.replace("{name}", self.name))


class LayoutSection(Section):
    """`[layout]`: ranks along each axis."""

    describes = (Layout,)
    dp: int | tuple[int, ...] = 1
    """Data-parallel replicas; or a list of their number at each place of the pipeline, more where stages are heavy."""
    pp: int = 1
    """Pipeline stages."""


class TrainSection(Section):
    """`[train]`: one step."""

    describes = (Settings,)
    batch: int
    """Samples in a step, over all replicas."""
    microbatches: int = 1
    """Parts in which a replica's share goes through its pipeline."""
    schedule: Annotated[str, AfterValidator(_schedule)] = "1f1b"
    """Order of forward and backward passes; automatic for the best that a search finds, with 1F1B's stages, by a profile at
    the start, and automatic:zb_v for one with the stages of another schedule."""
    clip: float | None = None
    """Largest norm of the gradient; by default there is none."""
    clip_value: float | None = None
    """Largest magnitude of an element of the gradient, after that; by default there is none."""
    zero: int = 0
    """What replicas share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too."""
    overlap: bool = True
    """Whether gradients are summed over the replicas while backward still runs."""
    progress: str = "auto"
    """Who moves those sums on meanwhile: thread, points (between two ops), or auto: a thread where cores are free for one."""
    allreduce: str = "auto"
    """How they are summed: native (MPI's own), ring, halving or hierarchical; auto for the fastest by a short measurement."""
    bucket_mib: float | None = None
    """MiB of gradients in one message; by default the least for which, by the same measurement, latency matters little."""
    stages: Annotated[str | tuple[int, ...], BeforeValidator(_stages)] = "parameters"
    """Which layers make which stage: parameters, auto (by measured time), or a list of the number of layers of each."""
    memory_gib: float | None = None
    """With stages = "auto" or a search for the schedule: most GiB that a rank may hold.  By default a search lets none hold
    more than the fullest rank does with the schedule whose stages it has."""
    sync_batch_norm: bool = False
    """Whether batch norm takes its moments over all replicas, not over each one's microbatch."""
    reproducible: bool = False
    """Whether every layout of the same microbatches gives the same bits; see `mpitrain.parallel.reproducible`."""


class ValidationSection(Section):
    """`[validation]`: the loss on data that is not trained on."""

    every: Count | None = None
    """Steps between two; by default only after the last one."""
    batches: Count | None = None
    """Batches to take it over; by default all."""


class CheckpointSection(Section):
    """`[checkpoint]`: what a run can go on from."""

    every: Count | None = None
    """Steps between two; by default only after the last one."""
    keep: Count = 2
    """How many are kept."""


class TraceSection(Section):
    """`[trace]`: steps whose actions are recorded, for `mpitrain trace` and `mpitrain plot --pipeline`; the last always is."""

    describes = (Tracing,)
    first: int = 2
    """The first one: by default the second, since the first warms up."""
    every: Count | None = None
    """Steps between two."""


class SampleSection(Section):
    """`[sample]`: text that the model writes at the end."""

    prompt: Annotated[str, Field(min_length=1)]
    """How it begins."""
    tokens: Count = 200
    """How long it goes on."""
    temperature: NotNegative = 0.8
    """How freely: 0 takes the likeliest token each time."""
    seed: int = 0
    """Key of the choices."""


class CheckSection(Section):
    """`[check]`: the layout's self-check at the end."""

    enabled: bool = True
    """Whether to compare one batch with one rank's."""


class DebugSection(Section):
    """`[debug]`: ranks that look at each other."""

    enabled: bool = False
    """Whether replicas compare their weights, before the first step and from time to time."""
    every: Count = 100
    """Steps between two comparisons."""


class Config(Section):
    """A run."""

    run: RunSection
    layout: LayoutSection = LayoutSection()
    model: ModelSection
    data: DataSection
    train: TrainSection
    optimizer: OptimizerSection
    schedule: ScheduleSection = ConstantSection()
    compression: CompressionSection = NoCompressionSection()
    validation: ValidationSection = ValidationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    trace: TraceSection = TraceSection()
    sample: SampleSection | None = None
    check: CheckSection = CheckSection()
    debug: DebugSection = DebugSection()

    def build_optimizer(self) -> Optimizer:
        """The optimizer with its schedule over the run's steps, its learning rate scaled to the run's batch."""
        return self.optimizer.for_batch(self.train.batch).build(self.schedule.build(self.run.steps))
