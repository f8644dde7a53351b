"""The residual network for small images (He et al. 2015, "Deep residual learning for image recognition", section 4.2).

Invariant: a layer takes one tensor and gives one, and a residual block is one layer, so the model can be cut between any two.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpitrain.autograd import Tensor
from mpitrain.bounds import Count, checked
from mpitrain.nn.activation import ReLU
from mpitrain.nn.batch_norm import BatchNorm2d
from mpitrain.nn.convolution import Conv2d
from mpitrain.nn.init import he_normal
from mpitrain.nn.linear import Linear
from mpitrain.nn.loss import CrossEntropy
from mpitrain.nn.model import Model, Sequential
from mpitrain.nn.module import Module
from mpitrain.nn.pooling import GlobalAvgPool


class ResNet(Model):
    """Logits (n, classes) of images (n, channels, h, w).

    `depth` counts the blocks of each group; group g has width 2^g `width`, and every group but the first begins by halving the
    image.  The paper's ResNet-20 is depth (3, 3, 3), width 16.
    """

    @checked
    def __init__(
        self, *, depth: Sequence[Count] = (2, 2, 2), width: Count = 16, channels: Count = 1, classes: Count = 10
    ) -> None:
        layers: list[Module] = [_convolution(channels, width, 3), BatchNorm2d(width), ReLU()]
        before = width
        for group, blocks in enumerate(depth):
            for block in range(blocks):
                layers.append(ResidualBlock(before, width << group, stride=2 if group and not block else 1))
                before = width << group
        layers += [GlobalAvgPool(), Linear(before, classes)]
        super().__init__(layers, CrossEntropy(), depth=tuple(depth), width=width, channels=channels, classes=classes)


class ResidualBlock(Module):
    """relu(x + f(x)) with f two 3 x 3 convolutions; x is projected by a 1 x 1 convolution where f changes its shape."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        self.convolution1, self.norm1 = _convolution(inputs, outputs, 3, stride=stride), BatchNorm2d(outputs)
        self.convolution2, self.norm2 = _convolution(outputs, outputs, 3), BatchNorm2d(outputs)
        changes = stride > 1 or inputs != outputs
        self.shortcut = Sequential([_convolution(inputs, outputs, 1, stride=stride), BatchNorm2d(outputs)] if changes else [])
        self.relu = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride), rounded up."""
        y = self.relu(self.norm1(self.convolution1(x)))
        return self.relu(self.norm2(self.convolution2(y)) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, size: int, *, stride: int = 1) -> Conv2d:
    """Without a bias, which the batch norm that follows would take away; it keeps the image's size at stride 1."""
    init = he_normal(inputs * size * size)
    return Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False, init=init)
