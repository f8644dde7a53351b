"""What the tests of compression share: gradients, every compressor, and what ranks have after some steps with one."""

from __future__ import annotations

import numpy as np

import mpitrain as mt
from mpitrain.arrays import Arrays
from mpitrain.comm import finish
from mpitrain.nn import Parameter, Statistic
from mpitrain.nn.init import Constant
from mpitrain.parallel import sum_over
from mpitrain.parallel.buckets import kept_bucket
from mpitrain.parallel.compression import DGC, EF21, Cast, Compression, PowerSGD, RandomK, Sign, TopK

#: A matrix, a tensor, a vector, and one with fewer rows than there may be ranks.
SHAPES = {"matrix": (7, 9), "kernel": (5, 3, 2, 2), "bias": (11,), "row": (1, 6)}

EVERY = [
    Cast(dtype="float16"),
    Cast(dtype="bfloat16"),
    PowerSGD(rank=2, warmup=1),
    TopK(density=0.2),
    TopK(density=0.2, error_feedback=False),
    DGC(density=0.1, warmup=2, clip=1.0),
    Sign(),
    RandomK(density=0.3),
    RandomK(density=0.3, error_feedback=False),
    EF21(density=0.2),
]


def gradients(ranks, steps, *, dtype=np.float64, shapes=SHAPES, seed=0, whole=False):
    """One dict of gradients for each step and rank."""
    random = np.random.default_rng(seed)

    def draw(shape):
        return random.integers(-50, 50, shape) if whole else random.normal(size=shape)

    return [[{name: draw(shape).astype(dtype) for name, shape in shapes.items()} for _ in range(ranks)] for _ in range(steps)]


def place_of(comm):
    """Where a rank is when all of them are replicas."""
    return mt.Mesh(mt.comm.local(comm.size), mt.Layout(dp=comm.size)).place(comm)


def run(world, compressor, grads, statistics=()):
    """What each rank has after each step, its state at the end, and the bytes that it sent in each step."""

    def rank(comm):
        parameters = []
        for name, grad in grads[0][comm.rank].items():
            kind = {"momentum": 0.9} if name in statistics else {}
            parameter = (Statistic if kind else Parameter)(grad.shape, Constant(0.0), **kind)
            parameter.name, parameter.data = name, np.zeros_like(grad)
            parameters.append(parameter)
        bucket = kept_bucket(3, parameters, Arrays())
        compression = Compression(compressor, place_of(comm), parameters, shared={}, lossless=sum_over(comm))
        start = {p.name: {k: v.copy() for k, v in state.items()} for p, state in compression.state.items()}
        sums, sent = [], []
        for step, given_ in enumerate(grads):
            for p in parameters:
                p.grad[...] = given_[comm.rank][p.name]
                p.contributed()
            compression.begin(step)
            finish(compression.exchange(bucket))
            sums.append({p.name: p.grad.copy() for p in parameters})
            sent.append(compression.sent_bytes)
        state = {p.name: state for p, state in compression.state.items()}
        return sums, state, sent, start

    return world.run(rank)


def applied(results):
    """What the first rank has after each step, once all ranks are seen to have the same bits."""
    for sums, *_ in results[1:]:
        for mine, first in zip(sums, results[0][0], strict=True):
            for name, x in mine.items():
                np.testing.assert_array_equal(x, first[name])
    return results[0][0]
