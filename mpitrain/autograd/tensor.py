"""`Tensor`, `Weight` and `Op`: a forward pass that records what a backward pass needs.

Invariant: an op's input gradient and its weight gradient are two calls that share nothing but what forward saved and the
gradient that arrived, so a schedule may run them apart (Qi et al. 2024, "Zero bubble pipeline parallelism", section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mpitrain.arrays import Array, empty_beside, namespace
from mpitrain.autograd import checks
from mpitrain.autograd.context import Context


class Node:
    """A tensor's place in the recorded graph, without its array: an array that no op saved is freed once no tensor holds it.

    `op` is the op that made it, or `None` for a leaf.  A leaf takes part in backward if `needs_grad` is set.
    """

    __slots__ = ("needs_grad", "op")

    def __init__(self, op: Op | None, needs_grad: bool) -> None:
        self.op = op
        self.needs_grad = needs_grad


class Tensor:
    """An array in a recorded computation, made by `op`, or a leaf of it.

    `ValueError` if its type is none that ops compute with, or if integers need a gradient.
    """

    __slots__ = ("context", "data", "node")

    def __init__(self, data: Array, *, context: Context | None = None, needs_grad: bool = False, op: Op | None = None) -> None:
        checks.array(data)
        if needs_grad and not checks.is_real(data.dtype):
            raise ValueError(f"a tensor of {data.dtype} needs a gradient; expected real numbers, which have one")
        self.data = data
        self.context = context or Context()
        self.node = Node(op, needs_grad)

    @property
    def op(self) -> Op | None:
        """The op that made it; `None` for a leaf, and once backward has passed."""
        return self.node.op

    @property
    def needs_grad(self) -> bool:
        """Whether backward brings a gradient here."""
        return self.node.needs_grad

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return tuple(self.data.shape)

    #: NumPy scalars and arrays leave the operators below to this class.
    __array_ufunc__ = None

    def __add__(self, other: Tensor | float) -> Tensor:
        from mpitrain.autograd.ops.basic import add  # the ops are built on this file

        return add(self, _as_tensor(other, self))

    __radd__ = __add__

    def __sub__(self, other: Tensor | float) -> Tensor:
        from mpitrain.autograd.ops.basic import subtract

        return subtract(self, _as_tensor(other, self))

    def __rsub__(self, other: float) -> Tensor:
        return _as_tensor(other, self) - self

    def __mul__(self, other: Tensor | float) -> Tensor:
        from mpitrain.autograd.ops.basic import multiply

        return multiply(self, _as_tensor(other, self))

    __rmul__ = __mul__

    def __truediv__(self, other: Tensor | float) -> Tensor:
        from mpitrain.autograd.ops.basic import divide

        return divide(self, _as_tensor(other, self))

    def __rtruediv__(self, other: float) -> Tensor:
        return _as_tensor(other, self) / self

    def __matmul__(self, other: Tensor) -> Tensor:
        from mpitrain.autograd.ops.basic import matmul

        return matmul(self, other)

    def __neg__(self) -> Tensor:
        from mpitrain.autograd.ops.basic import negative

        return negative(self)

    def __repr__(self) -> str:
        made_by = f", op={type(self.op).__name__}" if self.op else ""
        return f"Tensor(shape={self.shape}, dtype={self.data.dtype}{made_by})"


class Weight:
    """An array that training changes, and the gradient that a step accumulates for it.

    `grad` is a kept buffer of the same shape; `fresh` says that it holds nothing of this step yet, so that the first
    contribution is written straight into it and only the following ones are added.  `sink`, where there is one, takes each
    contribution out of `grad` at once; `on_grad` is called after each.  A weight that is not `trained` has no gradient;
    `reached` says that an op has contributed since the end of a step last asked.
    """

    data: Array
    grad: Array | None = None
    fresh: bool = True
    trained: bool = True
    reached: bool = False
    sink: Callable[[Weight], None] | None = None
    on_grad: Callable[[Weight], None] | None = None

    def __init__(self, data: Array) -> None:
        self.data = data

    def clear_grad(self) -> None:
        """Forget the accumulated gradient, keep its buffer."""
        self.fresh = True

    def contributed(self) -> None:
        """A contribution has been added to `grad`."""
        self.fresh, self.reached = False, True
        if self.sink is not None:
            self.sink(self)
        if self.on_grad is not None:
            self.on_grad(self)

    def settled_grad(self) -> Array:
        """The gradient of the step, zeros if no op contributed to it."""
        if self.grad is None:
            self.grad = empty_beside(self.data)
        if self.fresh:
            self.grad.fill(0)
            self.fresh = False
        return self.grad


class Op:
    """One differentiable operation; a subclass gives `forward`, `input_grad` and, if it takes weights, `weight_grad`.

    An instance serves one call: `forward` may keep on `self` what the gradients need, except weights, which may have to make
    room between forward and backward: read `self.weights[i].data` again.  Settings are the subclass's own `__init__`
    arguments.  No method sees a rank, a stage or a message.
    """

    inputs: tuple[Node, ...]
    weights: tuple[Weight, ...]
    context: Context
    #: For each input, whether its gradient is wanted; an `input_grad` may return `None` where it is not.
    wanted: tuple[bool, ...]

    def forward(self, *arrays: Array) -> Array:
        """The output array, from the arrays of the inputs and then of the weights."""
        raise NotImplementedError(f"{type(self).__name__} must define forward()")

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        """The gradient of each input, given that of the output.  `dy` must not be written to."""
        raise NotImplementedError(f"{type(self).__name__} must define input_grad()")

    def weight_grad(self, dy: Array, *out: Array) -> None:
        """Write the gradient of each weight into the array given for it, overwriting what it holds.

        `None` is given for a weight that is not trained.
        """
        raise NotImplementedError(f"{type(self).__name__} takes weights and must define weight_grad()")

    def __call__(self, *inputs: Tensor, weights: Sequence[Weight] = ()) -> Tensor:
        """Apply the op, and record it if a gradient will be wanted."""
        context = inputs[0].context if inputs else Context()
        self.inputs, self.weights, self.context = tuple(x.node for x in inputs), tuple(weights), context
        self.wanted = tuple(x.needs_grad for x in inputs)
        try:
            arrays = [w.data for w in weights]
        except AttributeError:
            raise ValueError(
                f"{type(self).__name__} uses a weight that has no array ({', '.join(map(repr, weights))}); expected every "
                "Parameter to be an attribute of a Module of the model, or in a list, tuple or dict that is one"
            ) from None
        data = self.forward(*(x.data for x in inputs), *arrays)
        needs_grad = any(self.wanted) or self.has_weights()
        return Tensor(data, context=context, needs_grad=needs_grad, op=self if needs_grad and context.record else None)

    def has_weights(self) -> bool:
        """Whether `accumulate` has anything to do."""
        return any(weight.trained for weight in self.weights)

    def accumulate(self, dy: Array) -> None:
        """Add the weight gradients for `dy` to the weights' accumulated ones."""
        if not self.has_weights():
            return
        out = [_target(w) if w.trained else None for w in self.weights]
        self.weight_grad(dy, *out)
        for weight, part in zip(self.weights, out, strict=True):
            if part is None:
                continue
            if part is not weight.grad:
                weight.grad += part
            weight.contributed()


def _as_tensor(x: Tensor | float, like: Tensor) -> Tensor:
    """A number as a constant in `like`'s context, and of its dtype; beside integers, a fraction is of the model's dtype."""
    if isinstance(x, Tensor):
        return x
    dtype = like.data.dtype
    if not checks.is_real(dtype):
        fraction = checks.is_real(getattr(x, "dtype", None) or np.result_type(x))
        dtype = like.context.dtype if fraction else np.result_type(dtype, getattr(x, "dtype", x))
    return Tensor(namespace(like.data).asarray(x, dtype), context=like.context)


def _target(weight: Weight) -> Array:
    """Where an op writes a weight's gradient: its own buffer while that holds nothing, a temporary afterwards."""
    if weight.grad is None:
        weight.grad = empty_beside(weight.data)
    return weight.grad if weight.fresh else empty_beside(weight.data)
