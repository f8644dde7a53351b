"""`Trainer`: a training job as a person scripts it.

Invariant: it decides when (a step, a validation, a checkpoint, a line of progress) and nothing of how; all that happens on a
rank is its `Worker`'s.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

from mpitrain import generate, selfcheck, snapshot
from mpitrain.arrays import arithmetic, choose, keep_freed_pages, one_blas_thread
from mpitrain.bounds import Count, NotNegative, NotNegativeInt, Positive, check, checked
from mpitrain.checkpoint import SHARD_BYTES, Claim, claim, find, prune
from mpitrain.comm import Communicator, Mesh, Watchdog, roll_call
from mpitrain.comm.launch import TERMINAL_VARIABLE
from mpitrain.data import Dataset, TokenDataset, check_vocab
from mpitrain.nn import Classification, Model
from mpitrain.observe import Progress, Spent, StepReport, TraceFile, Tracing
from mpitrain.optim import Optimizer
from mpitrain.parallel import Compressor, Order, Placement, Stages, check_arithmetic, check_start, check_weights
from mpitrain.program import Metrics, schedule_named
from mpitrain.selfcheck import Difference
from mpitrain.settings import Settings
from mpitrain.worker import Worker

T = TypeVar("T")


class Trainer:
    """Trains `model` on `data` over the ranks of `mesh`.

    `batch` samples a step (by default one for each microbatch) are dealt to dp replicas, each running `microbatches` of them
    through its pipeline by `schedule` (see `schedule_named`), with `"automatic"` in the order that a search finds by a profile
    at the start.  Every rank constructs it with the same arguments and calls the same methods; what the ranks were given, model
    and data, is compared here.  `ValueError`, before any training, where the arguments do not fit together.

    - `clip` bounds the norm of the mean gradient, and `clip_value` then each of its elements.
    - With `overlap`, gradients are summed over the replicas while backward still runs, moved on by a thread or at points
      between ops (`progress`), by the algorithm `allreduce`, in messages of `bucket_mib`; all three follow from a short
      measurement by default.  A `compression` (`parallel.PowerSGD(rank=4)`) does it with fewer bytes.
    - `zero` says what the replicas share out (`parallel.zero`); `sync_batch_norm` takes batch norm's moments over all of them.
    - `stages` says which layers make which stage: `"parameters"`, `"auto"` (by measured time), or the number of layers of each.
    - `memory_gib` is the most that a rank may hold, for stages by time and for the search; by default the former take what they
      need, and the latter lets no rank hold more than the fullest one does with 1F1B.
    - `reproducible` makes every layout of the same dp x microbatches give the same bits (`parallel.reproducible`).
    - With `debug`, replicas compare their weights before the first step of a `fit`, every `check_every` steps and at the end.
    - `arrays` is `"numpy"`, `"cupy"`, or `None` for CuPy where it finds a GPU.
    - An action that takes longer than `timeout_s` ends the job and says who waits for what; so does a rank that does not come
      here for as long, which is named.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        data: Dataset,
        *,
        mesh: Mesh,
        schedule: str = "1f1b",
        microbatches: int = 1,
        batch: int | None = None,
        validation: Dataset | None = None,
        seed: int = 0,
        dtype: str = "float32",
        clip: float | None = None,
        clip_value: float | None = None,
        overlap: bool = True,
        progress: str = "auto",
        allreduce: str = "auto",
        bucket_mib: float | None = None,
        sync_batch_norm: bool = False,
        zero: int = 0,
        stages: Stages = "parameters",
        memory_gib: float | None = None,
        compression: Compressor | None = None,
        reproducible: bool = False,
        debug: bool = False,
        check_every: Count = 100,
        arrays: str | None = None,
        timeout_s: Positive = 600.0,
    ) -> None:
        check(Trainer, debug=debug, check_every=check_every, timeout_s=timeout_s)  # the rest by `Settings`
        settings = Settings(
            schedule=schedule_named(schedule),
            microbatches=microbatches,
            batch=mesh.layout.widest * microbatches if batch is None else batch,
            seed=seed,
            dtype=dtype,
            clip=clip,
            clip_value=clip_value,
            overlap=overlap,
            progress=progress,
            allreduce=allreduce,
            bucket_mib=bucket_mib,
            sync_batch_norm=sync_batch_norm,
            zero=zero,
            stages=stages,
            memory_gib=memory_gib,
            compression=compression,
            reproducible=reproducible,
        )
        vocab = model.settings.get("vocab")
        for tokens in (data, validation):
            if isinstance(tokens, TokenDataset) and isinstance(vocab, int):
                check_vocab(tokens, vocab)
        keep_freed_pages()
        if reproducible:
            one_blas_thread()
        self.model, self.data, self.mesh, self.validation = model, data, mesh, validation

        def worker(comm: Communicator) -> Worker:
            roll_call(comm, "Trainer()", timeout_s)
            host = comm.same_host()
            library = choose(arrays, local_rank=host.rank, local_size=host.size)
            check_start(comm, model, {"training data": data, "validation data": validation})
            if settings.reproducible:
                check_arithmetic(comm, arithmetic(library))
            return Worker(mesh.place(comm), model, optimizer, data, settings, library)

        self.timeout_s, self.check_every = timeout_s, check_every if debug else None
        self._spent: dict[int, Spent] = {}
        #: What each rank of this process holds, by rank: one under MPI, all of them in a local world.
        self.workers = {w.place.comm.rank: w for w in mesh.world.run(worker)}

    @property
    def step(self) -> int:
        """Steps that the job has done."""
        return next(iter(self.workers.values())).step

    @property
    def classifies(self) -> bool:
        """Whether evaluations have an accuracy."""
        return isinstance(self.model.loss, Classification)

    @property
    def placement(self) -> Placement:
        """Which layers make which stage."""
        return next(iter(self.workers.values())).placement

    @property
    def order(self) -> Order | None:
        """How the order of the actions was found, if it was searched for."""
        return next(iter(self.workers.values())).order

    @property
    def has_terminal(self) -> bool:
        """Whether a progress bar can be drawn: of several processes, only `mpitrain run` knows."""
        launched = os.environ.get(TERMINAL_VARIABLE)
        alone = len(self.workers) == self.mesh.world.size
        return alone and sys.stdout.isatty() if launched is None else launched == "1"

    @checked
    def fit(
        self,
        steps: NotNegativeInt,
        *,
        report: Callable[[StepReport], None] | None = None,
        validate_every: Count | None = None,
        validation_batches: Count | None = None,
        folder: str | Path | Claim | None = None,
        save_every: Count | None = None,
        keep: Count = 2,
        trace: Tracing | None = None,
    ) -> list[Metrics]:
        """Train `steps` further steps; their metrics, the same on every rank.

        `report` is called on rank 0 after each step, by default to print progress.  The validation loss, over the first
        `validation_batches` batches, is taken every `validate_every` steps and after the last.  With a `folder`, a checkpoint
        is written there every `save_every` steps and after the last, and the newest `keep` are kept; no other job may write
        there meanwhile (`ValueError` if one does), and a `Claim` stays its holder's.  `trace` says which steps'
        actions are recorded, and where.
        """

        def due(every: int | None, worker: Worker, last: int) -> bool:
            return worker.step == last or (every is not None and worker.step % every == 0)

        def run(worker: Worker) -> list[Metrics]:
            last = worker.step + steps
            history: list[Metrics] = []
            progress = (
                Progress(bar=self.has_terminal, accuracy=self.classifies)
                if report is None and worker.place.comm.rank == 0
                else None
            )
            tell = progress.step if progress else report
            trace_file = None if trace is None else TraceFile(trace, worker.place, after=worker.step)
            spent = self._spent[worker.place.comm.rank] = Spent()
            if self.check_every is not None:
                check_weights(worker.place, worker.holding.replicated, worker.holding.shared)
            begin = time.perf_counter()
            while worker.step < last:
                before = time.perf_counter()
                metrics = worker.train_step()
                seconds = time.perf_counter() - before
                history.append(metrics)
                spent.add(worker.measured, seconds)
                if trace_file is not None:
                    trace_file.step(worker.step, last, worker.measured)
                if self.check_every is not None and due(self.check_every, worker, last):
                    check_weights(worker.place, worker.holding.replicated, worker.holding.shared)
                validation: Metrics | None = None
                if self.validation is not None and due(validate_every, worker, last):
                    validation = worker.evaluate(self.validation, validation_batches)
                if tell is not None and worker.place.comm.rank == 0:
                    each = (time.perf_counter() - begin) / len(history)
                    tell(
                        StepReport(
                            step=worker.step,
                            steps=last,
                            loss=metrics.loss,
                            skipped=metrics.skipped,
                            validation_loss=validation.loss if validation else None,
                            validation_accuracy=validation.accuracy if validation else None,
                            grad_norm=metrics.grad_norm,
                            learning_rate=metrics.learning_rate,
                            targets_per_s=metrics.count / seconds,
                            memory_bytes=worker.arrays.memory_bytes(),
                            sent_bytes=worker.sent_bytes,
                            seconds_left=each * (last - worker.step),
                        )
                    )
                # Told before it is saved, a step that a run goes on from has its line in the metrics.
                if owned is not None and due(save_every, worker, last):
                    self._save(worker, owned, keep)
            for file in (progress, trace_file):
                if file is not None:
                    file.close()
            return history

        with self._owning(folder) if folder is not None else nullcontext() as owned:
            return self._each(run)[0]

    def time_spent(self) -> str:
        """One sentence on where the time of the last `fit` went."""
        return self._each(lambda worker: self._spent[worker.place.comm.rank].line(worker.place.comm))[0]

    @checked
    def evaluate(self, data: Dataset | None = None, batches: Count | None = None) -> Metrics:
        """Mean loss, and accuracy where there are classes, over the first `batches` batches of `data`.

        By default over all the validation data.
        """
        dataset = self.validation if data is None else data
        if dataset is None:
            raise ValueError("there is no data to evaluate on; pass a dataset, or give the Trainer one as `validation`")
        return self._each(lambda worker: worker.evaluate(dataset, batches))[0]

    @checked
    def generate(
        self, prompt: Sequence[int], tokens: NotNegativeInt, *, temperature: NotNegative = 1.0, seed: int = 0
    ) -> list[int]:
        """`prompt` and `tokens` more of a language model; see `mpitrain.generate`."""
        return self._each(lambda worker: generate.generate(worker, prompt, tokens, temperature=temperature, seed=seed))[0]

    def self_check(self) -> Difference | None:
        """How far this layout's next step is from one rank's, on rank 0; see `mpitrain.selfcheck`."""
        return self._each(selfcheck.self_check)[0]

    def check_replicas(self) -> None:
        """`ValueError` on every rank if the replicas' weights are not the same to the last bit."""
        self._each(lambda worker: check_weights(worker.place, worker.holding.replicated, worker.holding.shared))

    @checked
    def save(self, folder: str | Path, *, keep: Count = 2) -> Path:
        """Write a checkpoint `folder/step-N` and keep the newest `keep`; the path of the new one.

        `ValueError` if another job writes there.
        """
        with self._owning(folder) as owned:
            return self._each(lambda worker: self._save(worker, owned, keep))[0]

    @checked
    def export(self, folder: str | Path, *, shard_bytes: Count = SHARD_BYTES) -> Path:
        """Write the trained model as a folder that `transformers` loads, in files of at most `shard_bytes`; the folder.

        `ValueError` if the model has no such format; see `checkpoint.export`.
        """
        return self._each(lambda worker: snapshot.write_pretrained(worker, Path(folder), shard_bytes))[0]

    def resume(self, path: str | Path, *, missing_ok: bool = False, restart_data: bool = False) -> Path | None:
        """Go on from the checkpoint at `path`, or from the newest in the folder `path` that all ranks can read; which one.

        `None`, and nothing changes, if the folder has none, or with `missing_ok` if there is no such path, as at a first start.
        Each setting that is another one than when it was written is told in a line.  `ValueError` if there is no such path, if
        every checkpoint there is damaged, if it is another model's, or if the dataset has another size, unless with
        `restart_data` it is read from its start.
        """

        def restore(worker: Worker) -> Path | None:
            found = find(worker.place.comm, Path(path), missing_ok=missing_ok)
            if found is None:
                return None
            differences = snapshot.restore(worker, found, restart_data=restart_data)
            for line in differences if worker.place.comm.rank == 0 else ():
                print(f"resuming {found.checkpoint.path}: {line}", flush=True)
            return found.checkpoint.path

        return self._each(restore)[0]

    def _owning(self, folder: str | Path | Claim) -> AbstractContextManager[Claim]:
        """`folder` as this job's own for a while, unless it is that already."""
        if isinstance(folder, Claim):
            return nullcontext(folder)
        return self._each(lambda worker: claim(worker.place.comm, Path(folder)))[0]

    def _save(self, worker: Worker, owned: Claim, keep: int) -> Path:
        owned.check(worker.place.comm)
        written = snapshot.write(worker, owned.path)
        prune(worker.place.comm, owned.path, keep, written=worker.step)
        return written

    def _each(self, function: Callable[[Worker], T]) -> list[T]:
        """`function` of every worker of this process, its actions watched."""

        def run(comm: Communicator) -> T:
            worker = self.workers[comm.rank]
            watchdog = Watchdog(self.timeout_s, rank=comm.rank)
            worker.watch = watchdog.waiting
            try:
                return function(worker)
            finally:
                watchdog.close()

        return self.mesh.world.run(run)
