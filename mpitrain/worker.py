"""`Worker`: everything that one rank of a training job holds, put together once, and the programs that it runs.

Invariant: all that a step does is in the list of actions and in the table of what each kind does; this file builds the two and
hands them to the one executor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np

from mpitrain.arrays import Arrays, float_dtype, to_host
from mpitrain.autograd import Context
from mpitrain.comm import Place, ProgressThread, choose_progress
from mpitrain.comm.allreduce import Constants
from mpitrain.data import Dataset, Inputs, Sampler, identity, parts_of
from mpitrain.feed import Batch, Feed
from mpitrain.gradients import choose_summing
from mpitrain.holding import Holding
from mpitrain.nn import Model, NotFiniteError, Statistic
from mpitrain.optim import Optimizer
from mpitrain.parallel import DataParallel, Routes, frozen_stages, sync_batch_norm
from mpitrain.program import (
    Action,
    Compute,
    Kind,
    Mail,
    Measured,
    Metrics,
    Microbatch,
    Program,
    Transfers,
    Update,
    Watch,
    add_tally,
    add_transfers,
    add_update,
    arm_reduction,
    execute,
    gather_after_update,
    gather_around,
    inference,
    leave_out,
    owners,
    refine,
    validate,
)
from mpitrain.settings import Settings
from mpitrain.stages import choose_stages


class Worker:
    """One rank of a job."""

    def __init__(
        self,
        place: Place,
        model: Model,
        optimizer: Optimizer,
        data: Dataset,
        settings: Settings,
        arrays: Arrays,
    ) -> None:
        """Cut the model, create this rank's stages, agree with the neighbours.  Collective."""
        settings.check(model, place.layout, optimizer)
        model = model.training(optimizer.trains)
        self.place, self.model, self.data, self.settings, self.arrays = place, model, data, settings, arrays
        self.optimizer, self.dtype = optimizer, float_dtype(settings.dtype)
        self.identity, self.sampler = identity(data), Sampler(len(data), settings.seed)
        self.position = self.sampler.start()
        #: Called around each action, to name one that never returns.
        self.watch: Watch = nullcontext
        self.measured: list[Measured] = []
        #: Whether allreduce algorithms were chosen by a checkpoint's measurement.
        self.recalled = False
        chosen = choose_stages(settings, model, optimizer, place, data, arrays)
        #: Which layers make which stage, and how the order was found, if it was searched for.
        self.placement, self.order = chosen.placement, chosen.order
        # Where weights come and go stage by stage, each layer is one.
        fine, ranges = settings.zero == 3, self.placement.ranges
        schedule = refine(chosen.schedule, [stop - start if fine else 1 for start, stop in ranges])
        ranges = [(i, i + 1) for i in range(len(model.layers))] if fine else ranges
        frozen = frozen_stages(model, ranges)
        schedule = leave_out(schedule, frozen)
        self.owner = owners(schedule)
        #: The lowest stage that has something to train: backward ends there.
        self.lowest_stage = min(self.owner.keys() - frozen)
        self.last_stage = len(self.owner) - 1
        self.holding = Holding(
            model, place, self.owner, ranges, optimizer, zero=settings.zero, arrays=arrays, dtype=self.dtype, seed=settings.seed
        )
        self.stages = self.holding.stages
        if settings.sync_batch_norm:
            replicas = place.dp.group(range(place.dp.size))  # messages that no bucket's can be taken for
            for stage in self.stages.values():
                sync_batch_norm(stage, replicas)
        self._build_handlers(None)
        self.feed = Feed(data, place, self.owner, settings)
        self._inferences: dict[int, list[Action]] = {}
        step = add_transfers(schedule)
        # Exact totals take in every microbatch and are reduced once.
        each = self.zero_level > 1 and not settings.reproducible
        step = arm_reduction(step, each=each) if settings.overlap else step
        step = add_update(step, self.holding.tied_ranks)
        step = gather_after_update(step) if self.zero_level in (1, 2) else step
        self.training = self._ready(step)

    @property
    def step(self) -> int:
        """Steps done."""
        return next(iter(self.holding.states.values())).step_count

    @property
    def sent_bytes(self) -> int | None:
        """Bytes of gradients that this rank sent in the last step; counted where they are compressed."""
        return self.compression.sent_bytes if self.compression else None

    @property
    def zero_level(self) -> int:
        """What the replicas share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too."""
        return self.holding.zero.level if self.holding.zero else 0

    def train_step(self) -> Metrics:
        """One step on the next batch.  `NotFiniteError`, naming the first culprit, if loss or gradients are not finite."""
        return self._pass(self.training, self.step)

    def _pass(self, actions: Sequence[Action], step: int | None) -> Metrics:
        """Do `actions` with the next batch: the step of that number, or none."""
        if self.compression:
            self.compression.begin(step)
        numbers, after = self.sampler.take(self.position, self.settings.batch)
        following, _ = self.sampler.take(after, self.settings.batch)
        batch = self.feed.batch(numbers, self.sampler.count_before(self.position), following)
        context = Context(seed=self.settings.seed, sample_weight=1 / self.settings.batch)
        try:
            self._run(actions, batch, context)
        except NotFiniteError as error:
            self._name_culprit(batch, context, error)
        if self.update.changes:
            self.feed.forget()
        self.position = after
        return self.update.metrics

    def gradients_only(self) -> Metrics:
        """What `train_step` does up to the update: gradients stay in `holding.owned`, weights and position as they were."""
        position = self.position
        metrics = self._pass([action for action in self.training if action.kind is not Kind.STEP], None)
        self.position = position
        return metrics

    def evaluate(self, data: Dataset, batches: int | None = None) -> Metrics:
        """Mean loss, and accuracy where there are classes, over the first `batches` batches of `data` (all by default).

        They come in order, each sample once.
        """
        size = self.settings.batch
        samples = len(data) if batches is None else min(len(data), size * batches)
        found = []
        with Feed(data, self.place, self.owner, self.settings) as feed:
            for start in range(0, samples, size):
                numbers, following = (np.arange(begin, min(begin + size, samples)) for begin in (start, start + size))
                self._run(self._inference(self.settings.microbatches), feed.batch(numbers, start, following), _EVALUATION)
                found.append(self.update.metrics)
                if self.update.changes:
                    feed.forget()
        return Metrics.mean(found)

    def predict(self, inputs: Inputs) -> np.ndarray | None:
        """The model's output for `inputs` (the same on every rank) on the first rank of the last stage; `None` elsewhere."""
        parts = parts_of(inputs)
        # The first replica of each stage has all of it.
        routes = Routes(self.place, self.owner, lambda width, replica: [(0, 0 if replica else len(parts[0]))])
        microbatch = Microbatch(samples=tuple(range(*routes.runs[0])), inputs=parts if 0 in self.stages else ())
        self._run(self._inference(1), Batch(microbatches=[microbatch], routes=routes, crossings={}), _EVALUATION)
        return to_host(self.compute.outputs[0]) if self.compute.outputs else None

    @property
    def reduction(self) -> str | None:
        """How gradients are summed over the replicas, in one line; `None` where there is one."""
        if self.place.dp.size == 1:
            return None
        again = ", chosen as in the checkpoint" if self.recalled else ""
        return f"{self.summing.how(self.replicas.bucket_sizes)}{again}; {self.progress or 'after backward'}"

    def recall(self, constants: Constants | None) -> None:
        """Choose allreduce algorithms and bucket sizes as the run that measured `constants` did.  Collective."""
        self.recalled = True
        self._build_handlers(constants)

    def _build_handlers(self, constants: Constants | None) -> None:
        """What each kind of action does on this rank, with `constants` for the choice of an allreduce algorithm."""
        place, arrays, mail = self.place, self.arrays, Mail()
        zero = self.holding.zero
        self.compute = Compute(
            self.stages, self.model.loss, self.last_stage, mail, arrays, self.dtype, self._between, lowest=self.lowest_stage
        )
        self.transfers = Transfers(place.links, len(self.owner), mail, arrays)
        summing = choose_summing(place, self.settings, self.holding, constants)
        self.summing, self.compression = summing, summing.compression
        self.update = Update(
            place.comm,
            self.compute,
            self.holding.states,
            self.holding.owned,
            self.holding.reached(place.comm),
            self.settings.clip,
            summing.sums,
            self.settings.clip_value,
            [p.name for p in self.model.parameters() if isinstance(p, Statistic)],
        )
        # Where something goes on beside computing, on any rank, all of them ask who is to move it on.
        overlapped = place.layout.widest > 1 and self.settings.overlap
        self.progress = progress = choose_progress(place.comm, self.settings.progress, arrays) if overlapped else None
        self.beside: Callable[[], AbstractContextManager[None]] = nullcontext
        if progress and progress.thread and place.dp.size > 1:
            self.beside = partial(ProgressThread, self._advance, arrays.activate)
        self.replicas = DataParallel(
            self.holding.moving,
            summing.exchange,
            arrays,
            self.dtype,
            replicas=place.dp,
            bucket_bytes=summing.bucket_bytes,
            make_bucket=summing.make_bucket,
            watch=lambda what: self.watch(what),
        )
        self.handlers: dict[Kind, Callable[[Action], None]] = {
            Kind.F: self.compute.forward,
            Kind.B: self.compute.backward,
            Kind.I: self.compute.input_grad,
            Kind.W: self.compute.weight_grad,
            Kind.RECV_F: self.transfers.receive,
            Kind.SEND_F: self.transfers.send,
            Kind.RECV_B: self.transfers.receive,
            Kind.SEND_B: self.transfers.send,
            Kind.ARM: self.replicas.arm,
            Kind.REDUCE: self.replicas.reduce,
            Kind.TIE: summing.tie,
            Kind.TALLY: self.update.tally,
            Kind.STEP: self.update.step,
        }
        self.advance = [self.replicas.advance]
        if zero:
            self.handlers |= {Kind.GATHER: zero.gather, Kind.FREE: zero.free}
            for kind in (Kind.F, Kind.B, Kind.I, Kind.W):
                self.handlers[kind] = _in_turn(lambda action: zero.need(action.stage), self.handlers[kind])
            if not self.settings.reproducible:  # else the exchange takes them along
                self.handlers[Kind.REDUCE] = _in_turn(self.replicas.reduce, zero.reduce_wholes)
            self.advance.append(zero.advance)

    def _ready(self, program: Program, *, backward: bool = True) -> list[Action]:
        """This rank's part of `program`, once it is proven."""
        program = gather_around(program) if self.zero_level == 3 else program
        validate(program, backward=backward, lowest=self.lowest_stage, max_tag=self.place.comm.max_tag)
        return list(program[self.place.pp_rank])

    def _inference(self, microbatches: int) -> list[Action]:
        if microbatches not in self._inferences:
            program = add_tally(add_transfers(inference(self.owner, microbatches)))
            self._inferences[microbatches] = self._ready(program, backward=False)
        return self._inferences[microbatches]

    def _run(self, actions: Sequence[Action], batch: Batch, context: Context) -> None:
        """Run a program over a batch; of microbatches that have no sample here, nothing is done."""
        empty = {i for i, microbatch in enumerate(batch.microbatches) if not microbatch.samples}
        actions = [action for action in actions if action.microbatch not in empty] if empty else actions
        self.arrays.activate()
        self.compute.begin(batch.microbatches, context)
        self.transfers.begin(actions, batch.routes, batch.crossings)
        self.update.changing = batch.changing
        with self.beside():
            self.measured = execute(actions, self.handlers, self.watch, self._advance)
            self._end_transfers()
            if self.holding.zero:
                for stage in self.stages:
                    self.holding.zero.need(stage)

    def _end_transfers(self) -> None:
        with self.watch("its last messages to leave"):
            self.transfers.end()

    def _advance(self) -> None:
        """Go on with the collectives that are under way."""
        for advance in self.advance:
            advance()

    def _between(self) -> None:
        """While this rank computes, go on with those and with what stages send each other."""
        self._advance()
        self.transfers.advance()

    def _name_culprit(self, batch: Batch, context: Context, error: NotFiniteError) -> None:
        """Every rank found `error` in the tally: repeat the forward pass with a look at all outputs, then at the gradients."""
        self._end_transfers()
        for i, microbatch in enumerate(batch.microbatches):
            for what, given in (("input", microbatch.inputs), ("target", microbatch.targets)):
                for x in given if isinstance(given, tuple) else (given,):
                    number = None if x is None else _first_not_finite(x)
                    if number is not None:
                        sample = f"sample {microbatch.samples[number]}, in microbatch {i},"
                        raise NotFiniteError(f"{error}: the {what} of {sample} is not finite") from error
        self.place.comm.barrier()  # a rank whose data are not finite is about to say it
        again = replace(batch, crossings={}, changing=lambda: False)
        self._run(self._inference(len(batch.microbatches)), again, replace(context, record=False, check=True))
        for parameter in (p for p in self.holding.owned if p.moves):
            if not self.arrays.xp.isfinite(parameter.settled_grad()).all():
                raise NotFiniteError(f"{error}: all outputs are finite, the gradient of {parameter.name} is not") from error
        self.place.comm.barrier()  # a rank that found more is about to say it
        raise NotFiniteError(f"{error}: all modules' outputs are finite, so the loss function made it") from error


def _first_not_finite(x: np.ndarray) -> int | None:
    """The first row of `x`, of all the samples, with a number that is not finite."""
    if x.dtype.kind != "f" or np.isfinite(x).all():
        return None
    return int(np.argwhere(~np.isfinite(x))[0, 0])


def _in_turn(*handlers: Callable[[Action], None]) -> Callable[[Action], None]:
    """One handler after the other."""

    def handle(action: Action) -> None:
        for handler in handlers:
            handler(action)

    return handle


_EVALUATION = Context(record=False, train=False)
