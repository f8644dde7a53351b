"""Every op against torch and finite differences, and input gradients apart from weight gradients."""

import numpy as np
import pytest
import torch
from gradcheck import Case, check_against_differences, check_against_torch, check_put_off, run_ours, run_torch
from torch.nn import functional

from mpitrain.autograd import Context, Tensor, backward, ops
from mpitrain.kernels.fused import FUSED
from mpitrain.kernels.table import TWINS

INDEX = np.array([2, 0, 2, 1])
TARGETS = np.array([[3, -100, 0], [6, 2, -100]])


def sdpa(heads, kv_heads, window=None):
    """torch's attention on our packed layout."""

    def run(qkv):
        b, t, packed = qkv.shape
        seen = torch.ones(t, t, dtype=torch.bool).tril().triu(1 - (window or t))
        d = packed // (heads + 2 * kv_heads)
        q, k, v = qkv.reshape(b, t, -1, d).transpose(1, 2).split([heads, kv_heads, kv_heads], dim=1)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return y.transpose(1, 2).reshape(b, t, heads * d)

    return run


def torch_swiglu(x):
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


def positive(x):
    return np.abs(x) + 0.5


def away_from_zero(x):
    return np.where(x < 0, x - 0.1, x + 0.1)


CASES = [
    Case(name="add", ours=ops.add, theirs=torch.add, inputs=((3, 1, 5), (4, 1))),
    Case(name="add number", ours=lambda x: 2.0 + x + 1.5, theirs=lambda x: x + 3.5, inputs=((3, 5),)),
    Case(name="subtract", ours=ops.subtract, theirs=torch.sub, inputs=((5,), (2, 3, 5))),
    Case(name="subtract from a number", ours=lambda x: 1.0 - x, theirs=lambda x: 1.0 - x, inputs=((3, 5),)),
    Case(name="multiply", ours=ops.multiply, theirs=torch.mul, inputs=((2, 3, 1), (3, 7))),
    Case(name="multiply by itself", ours=lambda x: x * x * 3.0, theirs=lambda x: 3.0 * x**2, inputs=((3, 7),)),
    Case(name="divide", ours=ops.divide, theirs=torch.div, inputs=((4, 3), (1, 3)), domain=positive),
    Case(name="divide a number", ours=lambda x: 2.0 / x, theirs=lambda x: 2.0 / x, inputs=((4, 3),), domain=positive),
    Case(name="negative", ours=ops.negative, theirs=torch.neg, inputs=((4, 3),)),
    Case(name="matmul", ours=ops.matmul, theirs=torch.matmul, inputs=((3, 5), (5, 7))),
    Case(name="matmul, stacks that broadcast", ours=ops.matmul, theirs=torch.matmul, inputs=((2, 1, 3, 5), (4, 5, 1))),
    Case(name="reshape", ours=lambda x: ops.reshape(x, (6, -1)), theirs=lambda x: x.reshape(6, -1), inputs=((3, 4, 5),)),
    Case(
        name="transpose", ours=lambda x: ops.transpose(x, (2, 0, -2)), theirs=lambda x: x.permute(2, 0, 1), inputs=((3, 4, 5),)
    ),
    Case(name="sum of all", ours=ops.sum, theirs=torch.sum, inputs=((3, 4),)),
    Case(name="sum", ours=lambda x: ops.sum(x, (0, -1)), theirs=lambda x: x.sum((0, -1)), inputs=((3, 4, 5),)),
    Case(
        name="mean", ours=lambda x: ops.mean(x, (1,), keepdims=True), theirs=lambda x: x.mean(1, keepdim=True), inputs=((3, 4),)
    ),
    Case(name="mean of all", ours=ops.mean, theirs=torch.mean, inputs=((3, 4),)),
    Case(name="exp", ours=ops.exp, theirs=torch.exp, inputs=((3, 4),)),
    Case(name="log", ours=ops.log, theirs=torch.log, inputs=((3, 4),), domain=positive),
    Case(name="tanh", ours=ops.tanh, theirs=torch.tanh, inputs=((3, 4),)),
    Case(
        name="getitem, slices",
        ours=lambda x: ops.getitem(x, (slice(1, 3), ..., 2)),
        theirs=lambda x: x[1:3, ..., 2],
        inputs=((4, 2, 3),),
    ),
    Case(name="getitem, rows twice", ours=lambda x: ops.getitem(x, INDEX), theirs=lambda x: x[INDEX], inputs=((3, 5),)),
    Case(
        name="concatenate",
        ours=lambda *x: ops.concatenate(x, 1),
        theirs=lambda *x: torch.cat(x, 1),
        inputs=((2, 3), (2, 1), (2, 4)),
    ),
    Case(name="value", ours=lambda x, w: x * ops.value(w, x), theirs=lambda x, w: x * w, inputs=((3, 4),), weights=((4,),)),
    Case(name="linear", ours=ops.linear, theirs=functional.linear, inputs=((3, 5, 7),), weights=((4, 7), (4,))),
    Case(name="linear without bias", ours=ops.linear, theirs=functional.linear, inputs=((3, 7),), weights=((1, 7),)),
    Case(
        name="embedding",
        ours=lambda x, w: ops.embedding(Tensor(np.stack([INDEX, INDEX[::-1]]), context=x.context), w) + x,
        theirs=lambda x, w: functional.embedding(torch.tensor(np.stack([INDEX, INDEX[::-1]])), w) + x,
        inputs=((3,),),
        weights=((5, 3),),
    ),
    Case(
        name="layer norm",
        ours=lambda x, w, b: ops.layer_norm(x, w, b, eps=1e-3),
        theirs=lambda x, w, b: functional.layer_norm(x, (33,), w, b, 1e-3),
        inputs=((5, 3, 33),),
        weights=((33,), (33,)),
    ),
    Case(
        name="layer norm, more than one tile of rows",
        ours=lambda x, w, b: ops.layer_norm(x, w, b, eps=1e-5),
        theirs=lambda x, w, b: functional.layer_norm(x, (257,), w, b, 1e-5),
        inputs=((301, 257),),
        weights=((257,), (257,)),
    ),
    Case(
        name="RMS norm",
        ours=lambda x, w: ops.rms_norm(x, w, eps=1e-3),
        theirs=lambda x, w: functional.rms_norm(x, (9,), w, 1e-3),
        inputs=((2, 3, 9),),
        weights=((9,),),
    ),
    Case(name="relu", ours=ops.relu, theirs=functional.relu, inputs=((3, 7),), domain=away_from_zero),
    Case(name="silu", ours=ops.silu, theirs=functional.silu, inputs=((3, 7),)),
    Case(name="gelu, tanh", ours=ops.gelu_tanh, theirs=lambda x: functional.gelu(x, approximate="tanh"), inputs=((3, 7),)),
    Case(
        name="gelu, more than one tile",
        ours=ops.gelu_tanh,
        theirs=lambda x: functional.gelu(x, approximate="tanh"),
        inputs=((3, 20011),),
    ),
    Case(name="gelu, erf", ours=ops.gelu_erf, theirs=functional.gelu, inputs=((3, 7),)),
    Case(name="swiglu", ours=ops.swiglu, theirs=torch_swiglu, inputs=((3, 2, 10),)),
    Case(name="attention", ours=lambda x: ops.attention(x, heads=3, kv_heads=3), theirs=sdpa(3, 3), inputs=((2, 7, 45),)),
    Case(
        name="attention, grouped", ours=lambda x: ops.attention(x, heads=6, kv_heads=2), theirs=sdpa(6, 2), inputs=((2, 5, 30),)
    ),
    Case(
        name="attention, one key head",
        ours=lambda x: ops.attention(x, heads=3, kv_heads=1),
        theirs=sdpa(3, 1),
        inputs=((1, 1, 20),),
    ),
    Case(
        name="attention, several blocks",
        ours=lambda x: ops.attention(x, heads=2, kv_heads=1),
        theirs=sdpa(2, 1),
        inputs=((1, 193, 12),),
    ),
    # Blocks have 32 rows: less than one, the last that reaches no further block back, the first that does, and more.
    *(
        Case(
            name=f"attention, window {window}",
            ours=lambda x, window=window: ops.attention(x, heads=2, kv_heads=1, window=window),
            theirs=sdpa(2, 1, window),
            inputs=((1, 99, 8),),
        )
        for window in (1, 5, 32, 33, 34, 64, 98)
    ),
    Case(
        name="cross entropy",
        ours=lambda x: ops.cross_entropy(x, TARGETS),
        theirs=lambda x: functional.cross_entropy(x.reshape(-1, 7), torch.tensor(TARGETS).reshape(-1), reduction="sum"),
        inputs=((2, 3, 7),),
    ),
    Case(
        name="cross entropy, smoothed, another ignored index",
        ours=lambda x: ops.cross_entropy(x, INDEX, ignore_index=1, label_smoothing=0.2),
        theirs=lambda x: functional.cross_entropy(x, torch.tensor(INDEX), ignore_index=1, label_smoothing=0.2, reduction="sum"),
        inputs=((4, 5),),
    ),
    Case(
        name="squared error",
        ours=lambda x: ops.squared_error(x, INDEX),
        theirs=lambda x: functional.mse_loss(x, torch.tensor(INDEX, dtype=x.dtype), reduction="sum"),
        inputs=((4,),),
    ),
]
ids = [case.name for case in CASES]
#: The kernels that float32 may be computed with.
both = pytest.mark.parametrize("kernels", [TWINS, FUSED], ids=["twins", "fused"])


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_equals_torch_in_float64(case):
    check_against_torch(case, np.float64, 1e-12)  # sums of up to 300 terms of rounding 1e-16


@both
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_equals_torch_in_float32(case, kernels):
    check_against_torch(case, np.float32, 3e-6, kernels)  # the same in float32, rounding 6e-8


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_gradient_is_the_slope(case):
    check_against_differences(case)


@both
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_input_then_weight_gradients_are_the_same_bits(case, kernels):
    check_put_off(case, kernels)


@both
def test_slopes_do_not_change_the_values(kernels):
    x = np.random.default_rng(0).standard_normal((3, 40000)).astype(np.float32)
    for op in (ops.relu, ops.silu, ops.gelu_tanh, ops.gelu_erf, ops.swiglu):
        recorded = op(Tensor(x, context=Context(kernels=kernels), needs_grad=True))
        np.testing.assert_array_equal(recorded.data, op(Tensor(x, context=Context(record=False, kernels=kernels))).data)


@both
def test_large_numbers_stay_finite(kernels):
    x = np.array([[-1e4, -200.0, 0.0, 200.0, 1e4]], np.float32)
    for op, torch_op in (
        (ops.silu, functional.silu),
        (ops.gelu_erf, functional.gelu),
        (ops.gelu_tanh, lambda x: functional.gelu(x, approximate="tanh")),
    ):
        np.testing.assert_array_equal(op(Tensor(x, context=Context(kernels=kernels))).data, torch_op(torch.tensor(x)).numpy())
    logits = Tensor(x, context=Context(kernels=kernels), needs_grad=True)
    loss = ops.cross_entropy(logits, np.array([0]))
    assert loss.data == 2e4
    (dx,) = backward([loss], [np.ones((), np.float32)], leaves=[logits])
    np.testing.assert_array_equal(dx, [[-1, 0, 0, 0, 1]])


@both
def test_attention_scores_whose_exponentials_overflow(kernels):
    case = Case(
        name="large scores",
        ours=lambda x: ops.attention(x, heads=2, kv_heads=2),
        theirs=sdpa(2, 2),
        inputs=((1, 70, 24),),
        domain=lambda x: 40.0 * x,
    )
    check_against_torch(case, np.float64, 1e-11)  # scores of some thousands carry errors of 1e-13, and so do probabilities
    (x,), _ = case.draw(np.float32)
    y, expected = run_ours(case, [x], [], kernels=kernels).y, run_torch(case, [x], []).y
    # Here scores carry errors of 1e-4.
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_wrong_dropout_rows_are_named():
    x = Tensor(np.ones((3, 2)), context=Context(samples=(0, 1)))
    with pytest.raises(ValueError, match=r"'here' sees 3 rows and context\.samples has 2"):
        ops.dropout(x, 0.5, name="here")
