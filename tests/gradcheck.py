"""Checks of an op's values and gradients against torch and against finite differences, for tables of cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mpitrain.autograd import Context, Tensor, Weight, WeightWork, backward, run_weights
from mpitrain.kernels.table import TWINS, Kernels


@dataclass(frozen=True, kw_only=True)
class Case:
    """An op of ours beside torch's: both take the inputs and then the weights (`Weight` objects for ours)."""

    name: str
    ours: Callable[..., Tensor]
    theirs: Callable[..., torch.Tensor]
    inputs: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...] = ()
    #: Applied to the random inputs and weights, for ops with a domain.
    domain: Callable[[np.ndarray], np.ndarray] = np.asarray

    def draw(self, dtype: type) -> tuple[list[np.ndarray], list[np.ndarray]]:
        rng = np.random.default_rng(len(self.name))
        xs, ws = (
            [np.asarray(self.domain(rng.standard_normal(s)), dtype) for s in shapes] for shapes in (self.inputs, self.weights)
        )
        return xs, ws


@dataclass(frozen=True)
class Result:
    y: np.ndarray
    dx: list[np.ndarray]
    dw: list[np.ndarray]


def run_ours(
    case: Case,
    xs: list[np.ndarray],
    ws: list[np.ndarray],
    dy: np.ndarray | None = None,
    *,
    put_off: bool = False,
    kernels: Kernels = TWINS,
) -> Result:
    """Values and gradients of ours; `dy` is ones by default."""
    tensors = [Tensor(x, context=Context(kernels=kernels), needs_grad=True) for x in xs]
    weights = [Weight(w) for w in ws]
    y = case.ours(*tensors, *weights)
    work: WeightWork | None = [] if put_off else None
    dx = backward([y], [np.ones_like(y.data) if dy is None else dy], leaves=tensors, put_off=work)
    if work is not None:
        run_weights(work)
    return Result(y.data, dx, [w.settled_grad() for w in weights])


def run_torch(case: Case, xs: list[np.ndarray], ws: list[np.ndarray], dy: np.ndarray | None = None) -> Result:
    """The same by torch."""
    tensors = [torch.tensor(a, requires_grad=True) for a in (*xs, *ws)]
    y = case.theirs(*tensors)
    y.backward(torch.ones_like(y) if dy is None else torch.tensor(dy))
    grads = [t.grad.numpy() if t.grad is not None else np.zeros(t.shape) for t in tensors]
    return Result(y.detach().numpy(), grads[: len(xs)], grads[len(xs) :])


def check_against_torch(case: Case, dtype: type, tolerance: float, kernels: Kernels = TWINS) -> None:
    """Values and all gradients agree to `tolerance` of the largest element, in `dtype`, and keep shape and dtype."""
    xs, ws = case.draw(dtype)
    dy = np.random.default_rng(1).standard_normal(run_ours(case, xs, ws).y.shape).astype(dtype)
    ours, theirs = run_ours(case, xs, ws, dy, kernels=kernels), run_torch(case, xs, ws, dy)
    for a, b in zip((ours.y, *ours.dx, *ours.dw), (theirs.y, *theirs.dx, *theirs.dw), strict=True):
        assert a.dtype == dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max(initial=0)))


def check_against_differences(case: Case) -> None:
    """The gradient along a random direction equals the central difference, in float64.

    With a step of 1e-5 the truncation error is about 1e-10 of the third derivative and the rounding error 1e-16 / 1e-5.
    """
    xs, ws = case.draw(np.float64)
    rng = np.random.default_rng(2)
    dy = rng.standard_normal(run_ours(case, xs, ws).y.shape)
    result = run_ours(case, xs, ws, dy)
    for i, (values, grad) in enumerate(zip((*xs, *ws), (*result.dx, *result.dw), strict=True)):
        direction = rng.standard_normal(values.shape)

        def moved(step: float, i: int = i, direction: np.ndarray = direction) -> float:
            arrays = [a + step * direction if j == i else a for j, a in enumerate((*xs, *ws))]
            return float(np.sum(dy * run_ours(case, arrays[: len(xs)], arrays[len(xs) :]).y))

        difference = (moved(1e-5) - moved(-1e-5)) / 2e-5
        scale = np.linalg.norm(grad) * np.linalg.norm(direction)
        assert abs(difference - np.sum(grad * direction)) <= 1e-7 * max(1.0, scale), f"{case.name}: argument {i}"


def check_put_off(case: Case, kernels: Kernels = TWINS) -> None:
    """Input gradients first and weight gradients later give the same bits."""
    xs, ws = case.draw(np.float32)
    at_once, apart = (run_ours(case, xs, ws, put_off=put_off, kernels=kernels) for put_off in (False, True))
    for a, b in zip((*at_once.dx, *at_once.dw), (*apart.dx, *apart.dw), strict=True):
        np.testing.assert_array_equal(a, b)
