"""Whatever an op is given, every kind of kernel takes it or none does, and where torch has the op, torch agrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
import torch
from device import WAITS, DeviceArray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mpitrain.autograd import Context, Tensor, backward, ops
from mpitrain.autograd.tensor import Weight
from mpitrain.kernels.fused import FUSED

ODD_NUMBERS = [-1, 0, 1, 2, 3, 2.5, 0.25, float("nan"), float("inf"), True, None, "1"]
DTYPES = ["float32", "float64", "float16", "bfloat16", "uint8", "int64", "bool", "complex64", "datetime64[s]", "object"]
#: How an array may differ from the one that an op expects.
MUTATIONS: list[Callable[[list[int]], list[int]]] = [
    lambda shape: shape[:-1],
    lambda shape: shape[1:],
    lambda shape: [*shape, 1],
    lambda shape: [2, *shape],
    lambda shape: [0, *shape[1:]],
    lambda shape: [*shape[:-1], 0],
    lambda shape: [*shape[:-1], shape[-1] + 1] if shape else [1],
    lambda shape: [*shape[:1], shape[1] + 1, *shape[2:]] if len(shape) > 1 else [5, 5],
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An op, the shapes that it takes, and torch's name for it."""

    ours: Callable[..., Tensor]
    inputs: list[list[int]]
    weights: list[list[int]] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    #: With `labels`, the last input is integers below this.
    labels: int | None = None
    theirs: Callable[..., torch.Tensor] | None = None
    #: Whether torch would take what we refuse to, or the other way round, for a reason.
    differs: Callable[[list[np.ndarray]], bool] = lambda arrays: False


def not_images(arrays):
    """torch takes a single image without its batch."""
    return arrays[0].ndim == 3


def has_scalars(arrays):
    """A 0-dim tensor of torch's takes the other's type, an array of NumPy's has its own."""
    return not all(a.ndim for a in arrays)


def has_vectors(arrays):
    """torch's product takes them too."""
    return min(a.ndim for a in arrays) < 2


CASES = {
    "linear": Case(ours=ops.linear, inputs=[[3, 4]], weights=[[2, 4], [2]], theirs=functional.linear),
    "layer norm": Case(
        ours=ops.layer_norm,
        inputs=[[2, 3, 4]],
        weights=[[4], [4]],
        settings={"eps": 1e-5},
        theirs=lambda x, w, b, eps: functional.layer_norm(x, w.shape, w, b, eps),
    ),
    "RMS norm": Case(
        ours=ops.rms_norm,
        inputs=[[3, 4]],
        weights=[[4]],
        settings={"eps": 1e-5},
        theirs=lambda x, w, eps: functional.rms_norm(x, w.shape, w, eps),
        differs=lambda arrays: arrays[0].dtype != np.float32,  # this one norm of torch's mixes types
    ),
    "batch norm": Case(
        ours=lambda x, w, b, eps: ops.batch_norm(x, w, b, eps=eps)[0],
        inputs=[[2, 3, 2, 2]],
        weights=[[3], [3]],
        settings={"eps": 1e-5},
    ),
    "convolution": Case(
        ours=ops.convolution,
        inputs=[[2, 3, 5, 5]],
        weights=[[4, 3, 2, 2], [4]],
        settings={"stride": 1, "padding": 0},
        theirs=lambda x, w, b, stride, padding: functional.conv2d(x, w, b, stride, padding),
        differs=not_images,
    ),
    "max pool": Case(
        ours=ops.max_pool,
        inputs=[[2, 3, 5, 5]],
        settings={"size": 2, "stride": 1, "padding": 0},
        theirs=lambda x, size, stride, padding: functional.max_pool2d(x, size, stride, padding),
        differs=not_images,
    ),
    "average pool": Case(
        ours=ops.average_pool,
        inputs=[[2, 3, 5, 5]],
        settings={"size": 2, "stride": 1, "padding": 0},
        theirs=lambda x, size, stride, padding: functional.avg_pool2d(x, size, stride, padding),
        differs=not_images,
    ),
    "relu": Case(ours=ops.relu, inputs=[[3, 4]], theirs=functional.relu),
    "silu": Case(ours=ops.silu, inputs=[[3, 4]], theirs=functional.silu),
    "gelu": Case(ours=ops.gelu_tanh, inputs=[[3, 4]], theirs=lambda x: functional.gelu(x, approximate="tanh")),
    "gelu, erf": Case(ours=ops.gelu_erf, inputs=[[3, 4]], theirs=functional.gelu),
    "swiglu": Case(ours=ops.swiglu, inputs=[[3, 4]]),
    "attention": Case(ours=ops.attention, inputs=[[2, 3, 8]], settings={"heads": 2, "kv_heads": 1}),
    "dropout": Case(ours=lambda x, rate: ops.dropout(x, rate, name="drop"), inputs=[[3, 4]], settings={"rate": 0.5}),
    "exp": Case(ours=ops.exp, inputs=[[3, 4]], theirs=torch.exp),
    "tanh": Case(ours=ops.tanh, inputs=[[3, 4]], theirs=torch.tanh),
    "mean": Case(ours=ops.mean, inputs=[[3, 4]], theirs=torch.mean),
    "add": Case(ours=ops.add, inputs=[[3, 4], [3, 4]], theirs=torch.add, differs=has_scalars),
    "multiply": Case(ours=ops.multiply, inputs=[[3, 4], [4]], theirs=torch.mul, differs=has_scalars),
    "divide": Case(ours=ops.divide, inputs=[[3, 4], [3, 4]], theirs=torch.div, differs=has_scalars),
    "matmul": Case(ours=ops.matmul, inputs=[[2, 3, 4], [4, 5]], theirs=torch.matmul, differs=has_vectors),
    "cross entropy": Case(
        ours=lambda x, targets, label_smoothing: ops.cross_entropy(x, targets.data, label_smoothing=label_smoothing),
        inputs=[[3, 5], [3]],
        labels=5,
        settings={"label_smoothing": 0.1},
        theirs=lambda x, t, label_smoothing: functional.cross_entropy(x, t, label_smoothing=label_smoothing, reduction="sum"),
        # torch has the classes in dim 1, and no logits without a class.
        differs=lambda a: a[0].ndim > 2 or not a[0].shape[-1:] or not a[0].shape[-1],
    ),
    "squared error": Case(
        ours=lambda x, targets: ops.squared_error(x, targets.data),
        inputs=[[3, 2], [3, 2]],
        theirs=lambda x, y: functional.mse_loss(x, y, reduction="sum"),
        differs=lambda arrays: arrays[0].dtype != arrays[1].dtype,  # our targets take the outputs' type
    ),
    "embedding": Case(
        ours=lambda x, ids, table: ops.embedding(ids, table),
        inputs=[[1], [2, 3]],
        weights=[[5, 4]],
        labels=5,
        theirs=lambda x, ids, table: functional.embedding(ids, table),
    ),
}


@st.composite
def given_to(draw, case):
    """Arrays and settings for an op, of which now and then one is odd."""
    odd = draw(st.integers(0, len(case.inputs) + len(case.settings)))
    arrays = []
    for i, shape in enumerate(case.inputs):
        dtype = "int64" if case.labels and i == len(case.inputs) - 1 else "float32"
        if i == odd:
            shape = draw(st.sampled_from([lambda shape: shape, *MUTATIONS]))(list(shape))
            dtype = draw(st.sampled_from([dtype, *DTYPES]))
        drawn = np.random.default_rng(0).integers(0, case.labels or 5, shape)
        if i == odd and case.labels and drawn.size and draw(st.booleans()):
            drawn.reshape(-1)[-1] = draw(st.sampled_from([-100, -1, case.labels, 2**40]))
        arrays.append(drawn.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    chosen = dict(case.settings)
    if odd > len(case.inputs):
        chosen[list(chosen)[odd - len(case.inputs) - 1]] = draw(st.sampled_from(ODD_NUMBERS))
    return arrays, chosen


def weights_of(case):
    return [np.random.default_rng(1).standard_normal(shape).astype(np.float32) for shape in case.weights]


def outcome(run):
    """The result, or `None` where the input was refused; any other error is a fault."""
    try:
        return run()
    except (ValueError, IndexError):
        return None


def ours(case, arrays, chosen, context, *, device=False):
    """Output and weight gradients with a kind of kernel, as host arrays."""

    def place(x):
        return DeviceArray(x.copy()) if device else x.copy()

    def run():
        weights = [Weight(place(w)) for w in weights_of(case)]
        tensors = [Tensor(place(a), context=context, needs_grad=a.dtype.kind == "f") for a in arrays]
        y = case.ours(*tensors, *weights, **chosen)
        if y.needs_grad:
            backward([y], [place(np.ones(y.shape, np.float32).astype(y.data.dtype))], leaves=tensors)
        results = [y.data, *(w.grad for w in weights if w.grad is not None)]
        return [r.a if device else r for r in results]

    return outcome(run)


def theirs(case, arrays, chosen):
    def run():
        tensors = [torch.tensor(a) for a in arrays]
        return case.theirs(*tensors, *map(torch.tensor, weights_of(case)), **chosen).numpy()

    try:
        return run()
    except (RuntimeError, ValueError, IndexError, TypeError, UserWarning):
        return None


@pytest.mark.filterwarnings("ignore:overflow|invalid value|divide by zero")
@pytest.mark.parametrize("name", CASES)
def test_all_kinds_of_kernels_take_the_same(name):
    case = CASES[name]

    @settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(given_to(case))
    def check(drawn):
        arrays, chosen = drawn
        samples = tuple(range(len(arrays[0]) if arrays[0].ndim else 0))
        plain = ours(case, arrays, chosen, Context(samples=samples))
        compiled = ours(case, arrays, chosen, Context(samples=samples, kernels=FUSED))
        WAITS.clear()
        device = ours(case, arrays, chosen, Context(samples=samples), device=True)
        assert not WAITS or (name == "attention" and "get" not in WAITS), "a check waits for the device"
        if case.labels and device is not None and plain is None:
            assert np.isnan(device[0]).any(), "a label out of range is seen nowhere"
            device = ours(case, arrays, chosen, Context(samples=samples, check=True), device=True)
        assert (plain is None) == (compiled is None) == (device is None)
        for other in (compiled, device) if plain is not None else ():
            for a, b in zip(plain, other, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=1e-5, atol=1e-5)
        if case.theirs and comparable(case, arrays, chosen):
            expected = theirs(case, arrays, chosen)
            assert (plain is None) == (expected is None)
            if expected is not None:
                assert (plain[0].shape, plain[0].dtype) == (expected.shape, expected.dtype)
                np.testing.assert_allclose(plain[0].astype(float), expected.astype(float), rtol=3e-3, atol=1e-3)

    check()


def comparable(case, arrays, chosen):
    """Whether torch has an opinion: types that both have, numbers that training can mean, and images with their batch."""
    known = all(a.dtype in (np.float32, np.float64, np.int64) for a in arrays)
    # Where torch refuses integers, we make real numbers of them.
    real = all(a.dtype.kind == "f" for a in (arrays[:-1] if case.labels else arrays))
    meant = all(type(a) is type(b) and np.isfinite(a) for a, b in zip(chosen.values(), case.settings.values(), strict=True))
    return known and real and meant and not case.differs(arrays)
