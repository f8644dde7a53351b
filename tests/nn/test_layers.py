"""Layers against torch's modules with the same weights, and losses with their counts."""

import numpy as np
import pytest
import torch

from mpitrain.arrays import Arrays
from mpitrain.autograd import Context, Tensor
from mpitrain.nn import (
    GELU,
    Attention,
    CrossEntropy,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    MeanSquaredError,
    ReLU,
    RMSNorm,
    Rotary,
    Sequential,
    SiLU,
    SwiGLU,
)
from mpitrain.nn.module import set_names

X = np.random.default_rng(0).standard_normal((3, 5, 8))


def ready(module):
    set_names(module)
    module.materialize(Arrays(), np.dtype(np.float64), seed=2)
    return module


def give_weights(ours, theirs):
    theirs = theirs.double()
    theirs.load_state_dict({p.name: torch.tensor(p.data) for p in ours.parameters()})
    return theirs


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Linear(8, 3), torch.nn.Linear(8, 3)),
        (Linear(8, 1, bias=False), torch.nn.Linear(8, 1, bias=False)),
        (LayerNorm(8), torch.nn.LayerNorm(8)),
        (RMSNorm(8, eps=0.1), torch.nn.RMSNorm(8, eps=0.1)),
        (ReLU(), torch.nn.ReLU()),
        (SiLU(), torch.nn.SiLU()),
        (GELU(), torch.nn.GELU()),
        (GELU(tanh=True), torch.nn.GELU(approximate="tanh")),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_layer_is_torchs(ours, theirs):
    ready(ours)
    expected = give_weights(ours, theirs)(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(ours(Tensor(X)).data, expected, rtol=1e-13, atol=1e-14)


def test_embedding_is_torchs():
    ids = np.array([[3, 0], [3, 6]])
    ours = ready(Embedding(7, 4))
    expected = give_weights(ours, torch.nn.Embedding(7, 4))(torch.tensor(ids)).detach().numpy()
    np.testing.assert_array_equal(ours(Tensor(ids)).data, expected)


def test_swiglu_is_a_gated_silu():
    gate, up = torch.tensor(X).chunk(2, dim=-1)
    expected = (torch.nn.functional.silu(gate) * up).numpy()
    np.testing.assert_allclose(SwiGLU()(Tensor(X)).data, expected, rtol=1e-14)


def test_attention_is_torchs_multi_head_attention():
    ours = ready(Attention(8, 2))
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    names = {
        "qkv.weight": "in_proj_weight",
        "qkv.bias": "in_proj_bias",
        "out.weight": "out_proj.weight",
        "out.bias": "out_proj.bias",
    }
    theirs.load_state_dict({names[p.name]: torch.tensor(p.data) for p in ours.parameters()})
    x = torch.tensor(X)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=x.dtype)
    expected = theirs(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0].detach().numpy()
    np.testing.assert_allclose(ours(Tensor(X)).data, expected, rtol=1e-13, atol=1e-14)


def test_rotary_attention_depends_on_distances_only():
    """With equal tokens but for one pair, moving the pair along moves the result along."""
    ours = ready(Attention(8, 1, rotary=Rotary(8, 100.0, context=20), bias=False))
    weights = ours.qkv(Tensor(X)).data
    q, k = weights[0, 0, :8], weights[1, 0, :8]

    def score(i, j):
        from mpitrain.kernels.rope import rope_tables, rotate

        cos, sin = rope_tables(20, 100.0 ** (-np.arange(4) / 4), 1.0, np, np.float64)
        out = np.empty((1, 1, 1, 8)), np.empty((1, 1, 1, 8))
        for x, t, y in ((q, i, out[0]), (k, j, out[1])):
            rotate(x.reshape(1, 1, 1, 8), cos[t : t + 1], sin[t : t + 1], out=y)
        return float(np.sum(out[0] * out[1]))

    assert score(3, 1) == pytest.approx(score(19, 17), rel=1e-12)
    assert score(3, 1) != pytest.approx(score(3, 2), rel=1e-3)


def test_dropout_layers_are_keyed_by_their_names():
    model = Sequential([Dropout(0.5), Dropout(0.5)])
    set_names(model)
    x = Tensor(np.ones((2, 300)), context=Context(samples=(0, 1)))
    first, second = (layer(x).data for layer in model.layers)
    assert np.any(first != second)
    assert np.all(np.isin(first, (0.0, 2.0)))


def test_cross_entropy_sums_what_it_counts():
    loss, targets = CrossEntropy(ignore_index=2), np.array([[0, 2, 1], [2, 2, 6]])
    y = np.random.default_rng(0).standard_normal((2, 3, 7))
    theirs = torch.nn.CrossEntropyLoss(ignore_index=2)(torch.tensor(y).reshape(-1, 7), torch.tensor(targets).reshape(-1))
    assert loss.count(targets) == 3.0
    assert loss(Tensor(y), targets).data / loss.count(targets) == pytest.approx(theirs.item(), rel=1e-14)


def test_a_class_is_right_where_its_logit_is_the_largest_and_the_target_counts():
    y = np.array([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    for targets, right in (([1, 0, 0, 2], 3), ([1, 2, 1, 2], 1), ([2, 2, 2, 2], 0)):
        assert CrossEntropy(ignore_index=2).correct(Tensor(y), np.array(targets)) == right


def test_label_smoothing_is_torchs():
    targets = np.array([0, 4])
    y = np.random.default_rng(0).standard_normal((2, 7))
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")(torch.tensor(y), torch.tensor(targets))
    assert CrossEntropy(label_smoothing=0.1)(Tensor(y), targets).data == pytest.approx(theirs.item(), rel=1e-14)


def test_a_batch_without_a_counted_target_has_loss_zero():
    targets = np.full((2,), -100)
    loss = CrossEntropy()
    assert loss(Tensor(np.ones((2, 7))), targets).data == 0.0
    assert loss.count(targets) == 0.0


def test_mean_squared_error_sums_what_it_counts():
    loss, targets = MeanSquaredError(), X + 0.5
    assert loss(Tensor(X), targets).data / loss.count(targets) == pytest.approx(0.25, rel=1e-14)
