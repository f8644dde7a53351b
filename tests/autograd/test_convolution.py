"""Convolution against torch and finite differences."""

import numpy as np
import pytest
from gradcheck import Case, check_against_differences, check_against_torch, check_put_off
from torch.nn import functional

from mpitrain.autograd import Tensor, Weight, ops


def case(name, x, weight, *, bias=True, stride=1, padding=0):
    settings = {"stride": stride, "padding": padding}
    return Case(
        name=name,
        ours=lambda *arrays: ops.convolution(*arrays, **settings),
        theirs=lambda *arrays: functional.conv2d(*arrays, **settings),
        inputs=(x,),
        weights=(weight, weight[:1]) if bias else (weight,),
    )


CASES = [
    case("3 x 3", (2, 3, 5, 6), (4, 3, 3, 3), padding=1),
    case("without bias", (2, 3, 5, 6), (4, 3, 3, 3), bias=False),
    case("1 x 1", (3, 5, 4, 4), (2, 5, 1, 1)),
    case("1 x 1, stride 2", (3, 5, 5, 4), (2, 5, 1, 1), stride=2),
    case("stride 2, an edge that no window sees", (2, 2, 6, 7), (3, 2, 3, 3), stride=2),
    case("stride 3, padding 2, not square", (2, 2, 7, 9), (3, 2, 2, 4), stride=3, padding=2),
    case("stride above the window", (1, 2, 8, 9), (3, 2, 2, 1), stride=4),
    case("window as large as the image", (2, 1, 3, 5), (4, 1, 3, 5)),
    case("even window", (1, 1, 5, 5), (1, 1, 4, 2), padding=1),
]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_case
def test_equals_torch_in_float64(case):
    check_against_torch(case, np.float64, 1e-13)  # sums of up to 84 terms of rounding 1e-16


@every_case
def test_equals_torch_in_float32(case):
    check_against_torch(case, np.float32, 3e-6)  # the same in float32, rounding 6e-8


@every_case
def test_gradient_is_the_slope(case):
    check_against_differences(case)


@every_case
def test_input_then_weight_gradients_are_the_same_bits(case):
    check_put_off(case)


@pytest.mark.parametrize(("shape", "padding"), [((1, 1, 2, 9), 0), ((1, 1, 9, 1), 0), ((1, 1, 1, 0), 1)])
def test_a_window_that_does_not_fit_is_an_error(shape, padding):
    with pytest.raises(ValueError, match=f"window of 3 x 3 does not fit an image of {shape[2]} x {shape[3]} with padding"):
        ops.convolution(Tensor(np.zeros(shape)), Weight(np.zeros((1, 1, 3, 3))), padding=padding)
