"""A job that a configuration describes: planned, prepared, run.

Invariant: every rank builds the same job from the same configuration; what is printed, and what is written beside the
checkpoints, comes from rank 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpitrain.checkpoint import Claim, claim_run
from mpitrain.checkpoint.huggingface import unused_dropout
from mpitrain.comm import Communicator, Layout, Mesh, World, roll_call
from mpitrain.config import Config, dump
from mpitrain.data import TokenDataset, check_vocab, read
from mpitrain.observe import MetricsFile, Progress, StepReport, Tracing
from mpitrain.plan import Plan, plan
from mpitrain.program import schedule_named
from mpitrain.settings import Settings
from mpitrain.train import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job that is ready to train."""

    config: Config
    trainer: Trainer
    #: The folder where everything that the job writes goes, and no other job meanwhile.
    claim: Claim
    #: The checkpoint that it goes on from.
    resumed: Path | None

    @property
    def folder(self) -> Path:
        """Where everything that the job writes goes."""
        return self.claim.path

    @property
    def leads(self) -> bool:
        """Whether rank 0 runs in this process."""
        return 0 in self.trainer.workers


def planned(config: Config) -> Plan:
    """What `config` will take, without ranks; `ValueError` where a run would refuse its settings."""
    _check_sample(config)
    schedule, compression = schedule_named(config.train.schedule), config.compression.build()
    chosen = Settings(**config.train.settings() | {"schedule": schedule, "compression": compression, "dtype": config.run.dtype})
    layout = Layout(**config.layout.settings())
    train, _ = config.data.build()
    model = config.model.build()
    vocab = model.settings.get("vocab")
    if isinstance(train, TokenDataset) and isinstance(vocab, int):
        check_vocab(train, vocab)
    return plan(model, config.build_optimizer(), layout, chosen, read(train, np.zeros(1, np.int64))[0])


def prepare(config: Config, world: World, resume: str, *, arrays: str | None, restart_data: bool = False) -> Job:
    """Build everything and load the checkpoint, if any; `ValueError` where something does not fit.

    `resume` is `"auto"` (the newest checkpoint of the run's folder, if it has one), `"never"` or a path.  With a path the run
    has a folder of its own, like one that starts afresh: what came after that checkpoint elsewhere is another history.
    With `restart_data` it reads the data from their start.
    """
    _check_sample(config)
    mesh = Mesh(world, Layout(**config.layout.settings()))

    def begin(comm: Communicator) -> Claim:
        roll_call(comm, "the start of the run", config.run.timeout_s)
        return claim_run(comm, config.run.path(), fresh=resume != "auto")

    claim = world.run(begin)[0]
    try:
        trainer = _trainer(config, mesh, arrays)
        resumed = None if resume == "never" else _resume(trainer, claim.path, resume, restart_data)
    except BaseException:
        claim.release()
        raise
    return Job(config=config, trainer=trainer, claim=claim, resumed=resumed)


def _trainer(config: Config, mesh: Mesh, arrays: str | None) -> Trainer:
    train, validation = config.data.build()
    return Trainer(
        config.model.build(),
        config.build_optimizer(),
        train,
        mesh=mesh,
        validation=validation,
        seed=config.run.seed,
        dtype=config.run.dtype,
        arrays=arrays,
        timeout_s=config.run.timeout_s,
        debug=config.debug.enabled,
        check_every=config.debug.every,
        compression=config.compression.build(),
        **config.train.settings(),
    )


def _resume(trainer: Trainer, folder: Path, resume: str, restart_data: bool) -> Path | None:
    """The checkpoint that the job goes on from; none if `resume` is "auto" and the run's `folder` has none yet."""
    auto = resume == "auto"
    resumed = trainer.resume(folder if auto else resume, restart_data=restart_data)
    if resumed is None and not auto:
        raise ValueError(f"--resume {resume}: there is no checkpoint in it; expected auto, never, or the path of one")
    return resumed


def run(job: Job) -> int:
    """Train, sample, check; the exit code: 1 if the self-check fails.  The job's folder is given back."""
    with job.claim:
        return _run(job)


def _run(job: Job) -> int:
    config, trainer = job.config, job.trainer
    steps = max(0, config.run.steps - trainer.step)
    watchers: list[Progress | MetricsFile] = []
    if job.leads:
        (job.folder / "config.toml").write_text(dump(config), encoding="utf-8")
        _say(f"{config.run.name}: {trainer.model.size:,} parameters, {trainer.mesh.layout}, {_arrays(trainer)}")
        if unused := unused_dropout(trainer.model):
            rates = ", ".join(f"{name} = {rate}" for name, rate in unused.items())
            _say(f"training goes without the dropout of the pretrained model's folder: {rates}")
        if len(trainer.placement.ranges) > 1:
            _say(str(trainer.placement))
        if trainer.order:
            _say(str(trainer.order))
        if reduction := trainer.workers[0].reduction:
            _say(reduction)
        _say(f"going on from {job.resumed}, in {job.folder}" if job.resumed else f"writing to {job.folder}")
        watchers = [
            Progress(bar=trainer.has_terminal, unit=_unit(trainer), accuracy=trainer.classifies),
            MetricsFile(job.folder / "metrics.jsonl", after=trainer.step),
        ]

    def report(step: StepReport) -> None:
        for watcher in watchers:
            watcher.step(step)

    trainer.fit(
        steps,
        report=report,
        validate_every=config.validation.every,
        validation_batches=config.validation.batches,
        folder=job.claim,
        save_every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        trace=Tracing(folder=job.folder / "trace", **config.trace.settings()),
    )
    for watcher in watchers:
        watcher.close()
    spent = f"{trainer.time_spent()}\ncheckpoint in {job.folder}/step-{trainer.step:08d}" if steps else "nothing left to train"
    if job.leads:
        _say(spent)
    _sample(job)
    return _check(job)


#: Data of which each token is a byte of text.
_TEXT = ("stdlib", "text")


def _check_sample(config: Config) -> None:
    """`ValueError` if the run is to write text at its end and could not."""
    if config.sample and config.data.kind not in _TEXT:
        raise ValueError(
            f"[sample] writes text of a byte a token, and the data's kind is {config.data.kind}; expected one of "
            f"{', '.join(_TEXT)}: leave [sample] out"
        )


def _sample(job: Job) -> None:
    """Let the model write something, if the configuration asks for it."""
    wanted = job.config.sample
    if wanted is None:
        return
    prompt = list(wanted.prompt.encode())
    tokens = job.trainer.generate(prompt, wanted.tokens, temperature=wanted.temperature, seed=wanted.seed)
    if job.leads:
        # A larger vocabulary has tokens that are no byte; 255 is none of any text.
        _say(f"--- sample\n{bytes(min(token, 255) for token in tokens).decode(errors='replace')}\n---")


def _check(job: Job) -> int:
    """Compare the layout with one rank, if the configuration asks for it; 1 where they differ."""
    found = job.trainer.self_check() if job.config.check.enabled else None
    if found is None:
        return 0
    _say(
        f"self-check: loss and {found.parameters} gradients of one batch under {job.trainer.mesh.layout} "
        f"{'equal' if found.equal else 'DIFFER from'} those of one rank; largest relative difference "
        f"{max(found.loss, found.gradient):.1e} ({found.worst}), allowed {found.tolerance:.0e}"
    )
    return 0 if found.equal else 1


def _unit(trainer: Trainer) -> str:
    return "tokens" if isinstance(trainer.data, TokenDataset) else "samples"


def _arrays(trainer: Trainer) -> str:
    arrays = next(iter(trainer.workers.values())).arrays
    return arrays.name if arrays.on_host else f"{arrays.name} on GPU {arrays.device}"


def _say(text: str) -> None:
    print(text, flush=True)
