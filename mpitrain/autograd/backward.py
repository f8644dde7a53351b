"""`backward`: one walk over a recorded graph, with the weight gradients taken on the way or put off.

Invariant: `B` and `I` followed by `W` run the same calls on the same arrays, so their results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mpitrain.arrays import Array, empty_beside, namespace
from mpitrain.autograd.tensor import Node, Op, Tensor

T = TypeVar("T")

#: Weight gradients put off: each op with the gradient that arrived at its output.
WeightWork = list[tuple[Op, Array]]


def backward(
    outputs: Sequence[Tensor],
    grads: Sequence[Array],
    *,
    leaves: Sequence[Tensor] = (),
    put_off: WeightWork | None = None,
    between: Callable[[], None] = lambda: None,
) -> list[Array | None]:
    """Propagate `grads` (one an output, of its shape) and return the gradients of `leaves`, `None` where none arrived.

    Weight gradients are accumulated on the way; with `put_off`, they are appended to it instead, for `run_weights`.
    `between` is called after each input gradient that more follows: where messages are under way, they move on there.
    The graph is taken apart as it is walked, so that arrays are freed as soon as nothing needs them; it serves once.
    """
    pending: dict[int, Array] = {}
    shared: set[int] = set()  # gradients that something else may hold too, so that adding in place would be wrong

    def arrive(node: Node, grad: Array | None) -> None:
        if grad is None or not node.needs_grad:
            return
        key = id(node)
        if key not in pending:
            pending[key] = grad
            shared.add(key)
        elif key in shared:
            pending[key] = namespace(grad).add(pending[key], grad, out=empty_beside(grad))
            shared.discard(key)
        else:
            pending[key] += grad

    for output, grad in zip(outputs, grads, strict=True):
        arrive(output.node, grad)
    order = _in_order(output.node for output in outputs)
    while order:
        node = order.pop()
        op, node.op = node.op, None
        if op is None or id(node) not in pending:
            continue
        dy = pending.pop(id(node))
        for x, dx in zip(op.inputs, _named(op, op.input_grad, dy), strict=True):
            arrive(x, dx)
        at_once = put_off is None and op.has_weights()
        if order or at_once:
            between()
        if not op.has_weights():
            continue
        if put_off is None:
            _named(op, op.accumulate, dy)
        else:
            put_off.append((op, dy))
    return [pending.get(id(leaf.node)) for leaf in leaves]


def run_weights(work: WeightWork, between: Callable[[], None] = lambda: None) -> None:
    """Accumulate the weight gradients that a `backward` put off, in the same order, freeing as it goes.

    `between` is called between two.
    """
    work.reverse()
    while work:
        op, dy = work.pop()
        _named(op, op.accumulate, dy)
        if work:
            between()


def _named(op: Op, gradient: Callable[[Array], T], dy: Array) -> T:
    """`gradient(dy)`; an exception says which op's gradient it came from."""
    try:
        return gradient(dy)
    except Exception as error:
        weights = f" of {', '.join(map(repr, op.weights))}" if op.weights else ""
        error.add_note(f"in the gradient of {type(op).__name__}{weights}")
        raise


def _in_order(outputs: Iterable[Node]) -> list[Node]:
    """The recorded nodes that `outputs` were computed from, each after its inputs."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(node, False) for node in outputs]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen and node.op is not None:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((x, False) for x in node.op.inputs)
    return order
