"""The ResNet against the same network written in torch, and cut into stages against itself whole."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from mpitrain.arrays import Arrays
from mpitrain.autograd import Context, Tensor, backward
from mpitrain.nn import Statistic
from mpitrain.nn.models import ResNet


class TorchBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return relu(self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))) + self.shortcut(x))


def torch_resnet(depth, width, channels, classes):
    layers = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for group, blocks in enumerate(depth):
        for block in range(blocks):
            layers.append(TorchBlock(inputs, width * 2**group, 2 if group > 0 and block == 0 else 1))
            inputs = width * 2**group
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)).double()


def built(**settings):
    model = ResNet(**settings)
    model.materialize(Arrays(), np.dtype(np.float64), seed=4)
    return model


def trained(model):
    return [p for p in model.parameters() if not isinstance(p, Statistic)]


SETTINGS = [
    ({"depth": (2, 2, 2), "width": 4, "channels": 1, "classes": 10}, (6, 1, 8, 8)),
    ({"depth": (1, 2), "width": 3, "channels": 3, "classes": 5}, (3, 3, 9, 7)),
]


@pytest.mark.parametrize(("settings", "shape"), SETTINGS)
def test_loss_gradients_and_evaluation_are_torchs(settings, shape):
    ours, theirs = built(**settings), torch_resnet(**settings)
    for p, t in zip(trained(ours), theirs.parameters(), strict=True):
        t.data = torch.tensor(p.data)
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal(shape), rng.integers(0, settings["classes"], shape[0])

    # before training has moved the running moments from 0 and 1
    evaluated = ours(Tensor(x, context=Context(train=False, record=False))).data
    np.testing.assert_allclose(evaluated, theirs.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-11, atol=1e-12)

    image = Tensor(x, needs_grad=True)
    loss = ours.loss(ours(image), targets)
    (dx,) = backward([loss], [np.ones(())], leaves=[image])
    tx = torch.tensor(x, requires_grad=True)
    expected = nn.functional.cross_entropy(theirs.train()(tx), torch.tensor(targets), reduction="sum")
    expected.backward()
    assert float(loss.data) == pytest.approx(expected.item(), rel=1e-12)
    # rounding of 1e-16 through up to 20 normalised layers
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=0, atol=1e-11 * np.abs(dx).max())
    for p, t in zip(trained(ours), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.settled_grad(), t.grad.numpy(), rtol=0, atol=1e-11 * np.abs(p.settled_grad()).max())


def test_cut_between_any_two_layers_it_is_the_same_function():
    model = built(depth=(1, 1), width=2)
    x = np.random.default_rng(0).standard_normal((3, 1, 6, 6))
    whole = model(Tensor(x)).data
    for cut in range(1, len(model.layers)):
        first, second = model.cut([(0, cut), (cut, len(model.layers))])
        np.testing.assert_array_equal(second(first(Tensor(x))).data, whole)


def test_the_papers_resnet_20_has_its_size():
    """Section 4.2 gives 0.27 million; counted by hand, with the projections that the paper leaves out on CIFAR."""
    model = ResNet(depth=(3, 3, 3), width=16, channels=3)
    without_projections = sum(p.size for p in trained(model) if "shortcut" not in p.name)
    assert without_projections == 269_722
