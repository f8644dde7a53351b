"""GPT and Llama as lists of layers: cutting, recomputing, tying, initial values, errors."""

import math

import numpy as np
import pytest

from mpitrain.arrays import Arrays
from mpitrain.autograd import Context, Tensor, backward
from mpitrain.nn import Stage
from mpitrain.nn.models import GPT, Llama

HOST = Arrays()
GPT_SETTINGS = {"width": 24, "depth": 3, "heads": 3, "vocab": 29, "context": 11}
LLAMA_SETTINGS = {"width": 24, "depth": 3, "heads": 6, "kv_heads": 2, "vocab": 29, "context": 11, "mlp": 17}
MODELS = [
    pytest.param(GPT, GPT_SETTINGS, id="gpt"),
    pytest.param(GPT, GPT_SETTINGS | {"tied": False, "dropout": 0.2}, id="gpt, untied, dropout"),
    pytest.param(Llama, LLAMA_SETTINGS, id="llama"),
    pytest.param(Llama, LLAMA_SETTINGS | {"tied": True}, id="llama, tied"),
]
IDS = np.random.default_rng(0).integers(0, 29, (2, 12))


def step(pieces, loss, parameters):
    """The loss and all gradients of one batch, as if each piece lay on another rank: only arrays pass between them."""
    context = Context(seed=3, samples=(5, 9))
    data, passes = IDS[:, :-1], []
    for piece in pieces:
        x = Tensor(data, context=context, needs_grad=data.dtype.kind == "f")
        y = piece(x)
        passes.append((x, y))
        data = y.data
    x, y = passes.pop()
    value = loss(y, IDS[:, 1:])
    (grad,) = backward([value], [np.ones_like(value.data)], leaves=[x])
    for x, y in reversed(passes):
        (grad,) = backward([y], [grad], leaves=[x])
    return value.data, {p.name: p.settled_grad() for p in parameters}


@pytest.mark.parametrize(("kind", "settings"), MODELS)
def test_recomputing_gives_the_same_bits(kind, settings):
    results = []
    for recompute in (False, True):
        model = kind(**settings, recompute=recompute)
        model.materialize(HOST, np.dtype(np.float32), seed=1)
        results.append(step([model], model.loss, model.parameters()))
    (loss, grads), (loss_again, grads_again) = results
    assert loss == loss_again
    for name, grad in grads.items():
        np.testing.assert_array_equal(grad, grads_again[name], err_msg=name)
        assert np.any(grad), f"{name} has no gradient"


@pytest.mark.parametrize(("kind", "settings"), MODELS)
def test_a_model_cut_anywhere_is_the_model(kind, settings):
    whole, cut = kind(**settings), kind(**settings)
    for model in (whole, cut):
        model.materialize(HOST, np.dtype(np.float64), seed=1)
    loss, grads = step([whole], whole.loss, whole.parameters())
    pieces_loss, pieces_grads = step(
        [Stage([layer], first=i) for i, layer in enumerate(cut.layers)], cut.loss, cut.parameters()
    )
    assert pieces_loss == loss
    for name, grad in grads.items():
        np.testing.assert_allclose(pieces_grads[name], grad, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize(("kind", "settings"), MODELS)
def test_a_model_is_embedding_blocks_and_head(kind, settings):
    model = kind(**settings)
    assert len(model.layers) == settings["depth"] + 2
    assert kind(**model.settings).settings == model.settings
    outer = {p.name for p in model.layers[0].parameters()} & {p.name for p in model.layers[-1].parameters()}
    assert len(outer) == (1 if model.settings["tied"] else 0)


def test_number_of_parameters_of_gpt2():
    model = GPT(width=768, depth=12, heads=12, vocab=50257, context=1024)
    assert sum(p.size for p in model.parameters()) == 124_439_808  # the released small model's


def test_number_of_parameters_of_llama_7b():
    model = Llama(width=4096, depth=32, heads=32, kv_heads=32, vocab=32000, context=2048, mlp=11008)
    assert sum(p.size for p in model.parameters()) == 6_738_415_616  # the released 7B model's


def test_initial_values_are_gpt2s():
    model = GPT(width=64, depth=8, heads=4, vocab=300, context=100)
    model.materialize(HOST, np.dtype(np.float32), seed=0)
    expected = {"weight": 0.02, "out": 0.02 / math.sqrt(16), "down": 0.02 / math.sqrt(16), "bias": 0.0}
    for p in model.parameters():
        parent, leaf = p.name.split(".")[-2:]
        if parent.startswith("norm"):
            assert np.all(p.data == (1.0 if leaf == "weight" else 0.0)), p.name
        else:
            std = expected["bias"] if leaf == "bias" else expected.get(parent, expected["weight"])
            # The standard error of a standard deviation of n numbers is std / sqrt(2 n).
            assert abs(p.data.std() - std) <= 5 * std / math.sqrt(2 * p.size), p.name


def test_the_first_loss_is_that_of_a_guess():
    model = GPT(**GPT_SETTINGS)
    model.materialize(HOST, np.dtype(np.float32), seed=0)
    loss = model.loss(model(Tensor(IDS[:, :-1])), IDS[:, 1:]).data / model.loss.count(IDS[:, 1:])
    assert abs(loss - math.log(29)) < 0.05


def test_no_position_sees_a_later_token():
    for kind, settings in ((GPT, GPT_SETTINGS), (Llama, LLAMA_SETTINGS)):
        model = kind(**settings)
        model.materialize(HOST, np.dtype(np.float64), seed=0)
        changed = IDS[:, :-1].copy()
        changed[:, 7] = (changed[:, 7] + 1) % 29
        a, b = model(Tensor(IDS[:, :-1])).data, model(Tensor(changed)).data
        np.testing.assert_array_equal(a[:, :7], b[:, :7])
        assert np.all(np.any(a[:, 7:] != b[:, 7:], axis=-1))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (GPT, GPT_SETTINGS | {"heads": 5}, "width is 24, heads 5; expected heads to divide width"),
        (Llama, LLAMA_SETTINGS | {"kv_heads": 4}, "heads is 6, kv_heads 4; expected kv_heads to divide heads"),
        (Llama, LLAMA_SETTINGS | {"heads": 8}, "rotary positions turn 3 of a head.s 3 numbers; expected an even number"),
        (GPT, GPT_SETTINGS | {"dropout": 1.0}, "dropout is 1.0; expected a number of at least 0 and below 1"),
    ],
)
def test_impossible_sizes_are_named(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_a_sequence_longer_than_the_context_is_named():
    model = GPT(**GPT_SETTINGS)
    model.materialize(HOST, np.dtype(np.float32), seed=0)
    with pytest.raises(ValueError, match="a sequence has 12 tokens; expected at most the model's context, 11"):
        model(Tensor(IDS))
