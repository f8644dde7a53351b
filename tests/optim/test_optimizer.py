"""Optimizers against torch's, step by step in float64; LAMB and LARS against their papers' algorithms."""

import numpy as np
import pytest
import torch

from mpitrain import optim
from mpitrain.arrays import BFLOAT16, Arrays
from mpitrain.nn import Parameter
from mpitrain.nn.init import Uniform

STEPS = 12
#: More elements than a tile of float64 holds, and not a multiple of it.
SHAPE = (241, 139)
#: The order of the same operations differs, so a few units in the last place may.
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def ours(optimizer, weight, grads, *, grad_scale=1.0):
    """The weight after a step along each of `grads`, handed over divided by `grad_scale`."""
    parameter = made("w", weight)
    state = optim.OptimizerState(optimizer, [parameter])
    for grad in grads:
        parameter.settled_grad()[...] = grad / grad_scale
        state.step(grad_scale=grad_scale)
    return parameter.data


def made(name, values, **settings):
    parameter = Parameter(values.shape, Uniform(1.0), **settings)
    parameter.name = name
    parameter.materialize(Arrays(), values.dtype, 0)
    parameter.data[...] = values
    return parameter


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE), rng.standard_normal((STEPS, *SHAPE))


ADAM = {"betas": (0.8, 0.95), "eps": 1e-3}
PEERS = {
    "sgd": (optim.SGD(lr=0.1), torch.optim.SGD, {"lr": 0.1}),
    "sgd-decay": (optim.SGD(lr=0.1, weight_decay=0.2), torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    "momentum": (
        optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.2),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2},
    ),
    "nesterov": (
        optim.SGD(lr=0.1, momentum=0.9, nesterov=True),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    "adam": (optim.Adam(lr=0.1), torch.optim.Adam, {"lr": 0.1}),
    "adam-l2": (optim.Adam(lr=0.1, weight_decay=0.2, **ADAM), torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.2, **ADAM}),
    "adamw": (optim.AdamW(lr=0.1), torch.optim.AdamW, {"lr": 0.1}),
    "adamw-decay": (
        optim.AdamW(lr=0.1, weight_decay=0.2, **ADAM),
        torch.optim.AdamW,
        {"lr": 0.1, "weight_decay": 0.2, **ADAM},
    ),
}


@pytest.mark.parametrize("grad_scale", [1.0, 0.25])
@pytest.mark.parametrize("case", PEERS)
def test_steps_are_torchs(case, grad_scale):
    optimizer, peer, settings = PEERS[case]
    weight, grads = drawn()
    theirs = torch.tensor(weight, requires_grad=True)
    stepper = peer([theirs], **settings)
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        stepper.step()
    np.testing.assert_allclose(ours(optimizer, weight, grads, grad_scale=grad_scale), theirs.detach().numpy(), **CLOSE)


def algorithm_2(x, grads, *, lr, beta1, beta2, eps, decay):
    """LAMB as You et al. 2020 print it, with φ(z) = z."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        r = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        update = r + decay * x
        norm, update_norm = np.linalg.norm(x), np.linalg.norm(update)
        ratio = norm / update_norm if norm > 0 and update_norm > 0 else 1.0
        x = x - lr * ratio * update
    return x


@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_is_its_papers_algorithm(decay, start):
    weight, grads = drawn()
    weight = weight if start == "random" else np.zeros_like(weight)
    expected = algorithm_2(weight, grads, lr=0.02, beta1=0.9, beta2=0.999, eps=1e-6, decay=decay)
    actual = ours(optim.LAMB(lr=0.02, weight_decay=decay), weight, grads, grad_scale=0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)  # norms of 33,499 elements, summed in tiles


def algorithm_1(w, grads, *, lr, steps, m, beta, eta):
    """LARS as You et al. 2017 print it, with their rate, lr (1 - t / T)^2, and λ = 1 where a norm is zero."""
    v = np.zeros_like(w)
    for t, g in enumerate(grads):
        gamma = lr * (1 - t / steps) ** 2
        norm, grad_norm = np.linalg.norm(w), np.linalg.norm(g)
        local = eta * norm / (grad_norm + beta * norm) if norm > 0 and grad_norm > 0 else 1.0
        v = m * v + gamma * local * (g + beta * w)
        w = w - v
    return w


@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_is_its_papers_algorithm(momentum, decay, start):
    weight, grads = drawn()
    weight = weight if start == "random" else np.zeros_like(weight)
    expected = algorithm_1(weight, grads, lr=3.0, steps=STEPS, m=momentum, beta=decay, eta=0.02)
    optimizer = optim.LARS(
        lr=3.0, schedule=lambda step: (1 - step / STEPS) ** 2, weight_decay=decay, momentum=momentum, trust=0.02
    )
    actual = ours(optimizer, weight, grads, grad_scale=0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)  # norms of 33,499 elements, summed in tiles


@pytest.mark.parametrize("vectors", [False, True])
def test_vectors_take_the_plain_step_unless_told(vectors):
    """Against torch's SGD and AdamW, and against the papers' algorithms, which know no exception."""
    rng = np.random.default_rng(3)
    weight, grads = rng.standard_normal(300), rng.standard_normal((STEPS, 300))
    found = {
        "lars": ours(optim.LARS(lr=0.3, momentum=0.9, adapt_vectors=vectors), weight, grads),
        "lamb": ours(optim.LAMB(lr=0.02, weight_decay=0.1, adapt_vectors=vectors), weight, grads),
    }
    if vectors:
        expected = {
            "lars": algorithm_1(weight, grads, lr=0.3, steps=np.inf, m=0.9, beta=0.0, eta=0.001),
            "lamb": algorithm_2(weight, grads, lr=0.02, beta1=0.9, beta2=0.999, eps=1e-6, decay=0.0),
        }
    else:
        peers = {"lars": (torch.optim.SGD, {"lr": 0.3, "momentum": 0.9}), "lamb": (torch.optim.Adam, {"lr": 0.02, "eps": 1e-6})}
        expected = {}
        for name, (peer, settings) in peers.items():
            theirs = torch.tensor(weight, requires_grad=True)
            stepper = peer([theirs], **settings)
            for grad in grads:
                theirs.grad = torch.tensor(grad)
                stepper.step()
            expected[name] = theirs.detach().numpy()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-13, err_msg=name)


def test_lars_does_not_move_a_weight_without_gradient():
    """One that no op contributed to in this step: the norm of its gradient is zero."""
    weight, _ = drawn()
    np.testing.assert_array_equal(ours(optim.LARS(lr=3.0), weight, [np.zeros_like(weight)]), weight)


OPTIMIZERS = [optim.SGD(lr=0.1, momentum=0.9), optim.AdamW(lr=0.1), optim.LAMB(lr=0.1), optim.LARS(lr=0.1)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_the_gradient_is_only_read(optimizer):
    weight, grads = drawn()
    before = grads[0].copy()
    slots = {name: np.zeros_like(weight) for name in optimizer.slots}
    optimizer.update(weight, grads[0], slots, lr=0.1, step=1, grad_scale=0.5)
    np.testing.assert_array_equal(grads[0], before)


def test_bfloat16_weights_have_float32_slots_and_follow_their_gradient():
    weight, grads = drawn()
    parameter = made("w", weight.astype(BFLOAT16))
    state = optim.OptimizerState(optim.AdamW(lr=0.1), [parameter])
    parameter.settled_grad()[...] = grads[0]
    state.step()
    assert {a.dtype for a, _ in state.arrays().values()} == {np.dtype(np.float32)}
    # Adam's first step is lr * sign(g); bfloat16 has 8 bits, and the weight is rounded after the decay and after the step.
    expected = weight * (1 - 0.1 * 0.01) - 0.1 * np.sign(grads[0])
    np.testing.assert_allclose(parameter.data.astype(float), expected, rtol=3 * 2.0**-8, atol=2.0**-8)


def test_groups_are_torchs_parameter_groups():
    names = {"block.0.w": (4, 3), "block.0.bias": (3,), "head.w": (5, 3), "norm.scale": (3,)}
    rng = np.random.default_rng(1)
    values = {name: rng.standard_normal(shape) for name, shape in names.items()}
    grads = [{name: rng.standard_normal(shape) for name, shape in names.items()} for _ in range(STEPS)]
    groups = (
        optim.Group(match=r"^head\.", lr_scale=0.5),
        optim.Group(match="head", weight_decay=9.0),  # comes too late for head.w
        optim.Group(match="norm", weight_decay=0.3),
    )
    optimizer = optim.AdamW(lr=0.1, weight_decay=0.1, groups=groups, schedule=optim.Cosine(steps=STEPS))
    parameters = [made(name, value) for name, value in values.items()]
    state = optim.OptimizerState(optimizer, parameters)

    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
    settings = {
        "block.0.w": {"lr": 0.1, "weight_decay": 0.1},
        "block.0.bias": {"lr": 0.1, "weight_decay": 0.0},
        "head.w": {"lr": 0.05, "weight_decay": 0.1},
        "norm.scale": {"lr": 0.1, "weight_decay": 0.3},
    }
    stepper = torch.optim.AdamW([{"params": [theirs[name]], **s} for name, s in settings.items()])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, T_max=STEPS)
    for step in grads:
        for parameter in parameters:
            parameter.settled_grad()[...] = step[parameter.name]
            theirs[parameter.name].grad = torch.tensor(step[parameter.name])
        state.step()
        stepper.step()
        schedule.step()
    for parameter in parameters:
        np.testing.assert_allclose(parameter.data, theirs[parameter.name].detach().numpy(), **CLOSE)
