"""Learning rates for larger batches: the papers' own figures, and what a job makes of them."""

import numpy as np
import pytest

from mpitrain import optim
from mpitrain.config.config import Config


@pytest.mark.parametrize(
    ("lr", "batch", "base", "rule", "expected"),
    [
        (0.1, 8192, 256, "linear", 3.2),  # Goyal et al. 2017, table 1: 0.1 * 8192 / 256
        (0.1, 64, 256, "linear", 0.025),
        (5 / 2**3 / 1e3, 32768, 512, "sqrt", 5 / 1e3),  # You et al. 2020, table 4: BERT at 512 and at 32k
        (0.3, 100, 100, "sqrt", 0.3),
    ],
)
def test_rates_are_the_papers(lr, batch, base, rule, expected):
    assert optim.scaled_lr(lr, batch, base, rule) == pytest.approx(expected, rel=1e-15)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="the scaling rule 'cubic' is not known; expected one of linear, sqrt"):
        optim.scaled_lr(0.1, 2, 1, "cubic")


def test_k_small_steps_are_one_large_one_where_the_gradient_is_the_same():
    """What the linear rule is for: equation 3 and 4 of Goyal et al., with a gradient that does not change between steps."""
    random = np.random.default_rng(0)
    weight, grads = random.normal(size=5), random.normal(size=(8, 5))
    small = weight - 0.1 * grads.sum(axis=0)
    large = weight - optim.scaled_lr(0.1, 8 * 32, 32) * grads.mean(axis=0)
    np.testing.assert_allclose(large, small, rtol=1e-14)


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, 0.1), ({"base_batch": 16}, 0.4), ({"base_batch": 16, "scaling": "sqrt"}, 0.2)]
)
@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "lamb", "lars"])
def test_a_job_scales_its_rate_by_its_batch(kind, settings, expected):
    config = Config.model_validate(
        {
            "run": {"name": "x", "steps": 10},
            "model": {"kind": "mlp", "sizes": (4, 2)},
            "data": {"kind": "digits"},
            "train": {"batch": 64},
            "optimizer": {"kind": kind, "lr": 0.1, **settings},
            "schedule": {"kind": "constant", "warmup": 4},
        }
    )
    built = config.build_optimizer()
    assert built.lr == pytest.approx(expected, rel=1e-15)
    assert built.schedule(0) == pytest.approx(0.2)
