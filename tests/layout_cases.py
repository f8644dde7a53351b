"""What the tests of equivalence share: small models and data, a case, its run under a layout, and the comparison with one rank.

First-step gradients (each parameter, relative), the losses of some steps, and the weights after them, with SGD, because Adam
turns the rounding of a gradient that is truly zero into a step of full size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import mpitrain as mt
from mpitrain.selfcheck import gather

#: Relative difference that a different order of summation may leave: the issue's bounds, a few hundred roundings.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


@functools.cache  # the same settings are the same factory, which `one_rank` knows models by
def gpt(**settings):
    return lambda: mt.nn.models.GPT(width=32, depth=3, heads=2, vocab=61, context=12, **settings)


def frozen_gpt():
    """With the first block frozen, and the embedding, which is the output's weight too."""
    model = gpt()()
    for layer in model.layers[:2]:
        for parameter in layer.parameters():
            parameter.trained = False
    return model


def llama(**settings):
    return mt.nn.models.Llama(
        **{"width": 32, "depth": 3, "heads": 4, "kv_heads": 2, "vocab": 61, "context": 12, "mlp": 48} | settings
    )


def llama_with_all():
    """Every setting in which the relatives of Llama differ; the context is shorter than the sequences."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "partial_rotary_factor": 0.5}
    biases = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
    return llama(head_dim=12, context=7, rope=rope, window=5, qk_norm=True, tied=True, padding=4, **biases)


def mlp():
    return mt.nn.models.MLP(sizes=(12, 16, 24, 16, 7))


def resnet():
    return mt.nn.models.ResNet(depth=(1, 1, 1), width=4, channels=2, classes=7)


def tokens():
    return mt.data.TokenDataset((np.arange(12 * 40 + 1) ** 2 % 61).astype(np.uint8), 12)


def vectors():
    random = np.random.default_rng(4)
    return mt.data.ArrayDataset(random.normal(size=(50, 12)).astype(np.float32), random.integers(0, 7, 50))


def images():
    random = np.random.default_rng(5)
    return mt.data.ArrayDataset(random.normal(size=(50, 2, 8, 8)).astype(np.float32), random.integers(0, 7, 50))


@dataclass(frozen=True)
class Case:
    model: Callable[[], mt.nn.Model]
    data: Callable[[], mt.data.Dataset]
    dp: int | tuple[int, ...]
    pp: int
    microbatches: int
    schedule: str
    batch: int
    dtype: str
    #: Microbatches of the one rank; batch norm needs them to be the same, nothing else does.
    alone: int = 1
    clip: float | None = None
    steps: int = 5
    #: What else the Trainer of the layout is given.
    settings: dict = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.layout.size

    @property
    def layout(self) -> mt.Layout:
        return mt.Layout(dp=self.dp, pp=self.pp)


@dataclass(frozen=True)
class Run:
    """What is compared, on rank 0."""

    gradients: dict[str, np.ndarray]
    losses: list[float]
    weights: dict[str, np.ndarray]


def train(world, case, layout, microbatches, **settings):
    """Some steps of `case` under a layout; what rank 0 has seen."""
    job = mt.Trainer(
        case.model(),
        mt.optim.SGD(lr=0.05, momentum=0.9),
        case.data(),
        mesh=mt.Mesh(world, layout),
        schedule=case.schedule,
        microbatches=microbatches,
        batch=case.batch,
        dtype=case.dtype,
        clip=case.clip,
        arrays="numpy",
        **settings,
    )

    def first_gradients(comm):
        worker = job.workers[comm.rank]
        worker.gradients_only()
        found = gather(worker, lambda p: p.settled_grad())
        worker.holding.clear_gradients()
        return found

    gradients = world.run(first_gradients)[0]
    losses = [metrics.loss for metrics in job.fit(case.steps, report=lambda step: None)]
    weights = world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]
    return Run(gradients, losses, weights)


@functools.cache
def one_rank(model, data, microbatches, batch, dtype, clip, steps):
    """What every layout of this must equal; trained once in a process."""
    case = Case(model, data, 1, 1, microbatches, "gpipe", batch, dtype, clip=clip, steps=steps)
    return train(mt.comm.local(1), case, case.layout, microbatches)


def check(world, case):
    run = train(world, case, case.layout, case.microbatches, **case.settings)
    if not run.gradients:
        return  # another rank compares
    one = one_rank(case.model, case.data, case.alone, case.batch, case.dtype, case.clip, case.steps)
    assert run.gradients.keys() == one.gradients.keys()
    worst = {name: np.linalg.norm(run.gradients[name] - g) / np.linalg.norm(g) for name, g in one.gradients.items() if g.any()}
    assert len(worst) > len(one.gradients) / 2
    assert max(worst.values()) <= TOLERANCE[case.dtype], max(worst.items(), key=lambda item: item[1])
    np.testing.assert_allclose(run.losses, one.losses, rtol=TOLERANCE[case.dtype])
    assert len(set(one.losses)) == case.steps  # it does train
    for name, w in one.weights.items():
        assert np.linalg.norm(run.weights[name] - w) <= TOLERANCE[case.dtype] * np.linalg.norm(w), name
