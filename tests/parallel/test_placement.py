"""Stages are what was asked for, never silently more or fewer, and with "auto" the best there are for what layers take."""

from __future__ import annotations

import threading
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_cases import Case, check, gpt, mlp, resnet, tokens, vectors

import mpitrain as mt
from mpitrain.autograd import Op
from mpitrain.parallel import LayerProfile, place_by_hand, place_by_parameters, place_by_time, profile
from mpitrain.program import F, schedule_named


class Clock(threading.local):
    """A clock for each rank, on which only what says so takes time."""

    now = 0.0

    def perf_counter(self):
        return self.now


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch):
    """Layers are timed by `CLOCK`."""
    monkeypatch.setattr(profile, "time", CLOCK)


class Takes(Op):
    """Identity that takes `seconds` forward and twice that backward."""

    def __init__(self, seconds):
        self.seconds = seconds

    def forward(self, x):
        CLOCK.now += self.seconds
        return x

    def input_grad(self, dy):
        CLOCK.now += 2 * self.seconds
        return (dy,)


class Slow(mt.nn.Module):
    def __init__(self, seconds):
        self.seconds = seconds

    def forward(self, x):
        return Takes(self.seconds)(x)


def slow(*milliseconds):
    """A linear layer, layers that take time, a linear layer."""
    layers = [mt.nn.Linear(4, 4), *(Slow(ms / 1e3) for ms in milliseconds), mt.nn.Linear(4, 3)]
    return mt.nn.Model(layers, mt.nn.CrossEntropy())


def data():
    random = np.random.default_rng(0)
    return mt.data.ArrayDataset(random.normal(size=(40, 4)), random.integers(0, 3, 40))


def trainer(model, world=None, *, pp=2, dp=1, samples=None, **options):
    mesh = mt.Mesh(world or mt.comm.local(dp * pp), mt.Layout(dp=dp, pp=pp))
    options = {"microbatches": 4, "batch": 8 * dp, "arrays": "numpy"} | options
    return mt.Trainer(model, mt.optim.SGD(lr=0.1), samples or data(), mesh=mesh, **options)


@pytest.mark.mpi(2, timeout=60, local=True)
@pytest.mark.usefixtures("clock")
def test_auto_finds_the_best_cut_of_layers_that_take_time(world):
    model = slow(5, 5, 5, 5, 20)  # 3 times that with backward: layers 1-4 take 60 ms, layer 5 takes 60 ms
    job = trainer(model, world, stages="auto")
    assert job.placement.ranges == [(0, 5), (5, 7)]
    assert job.placement.costs == pytest.approx([0, 15, 15, 15, 15, 60, 0])
    line = str(job.placement)
    assert line.startswith("2 stages by measured time: layers 0-4, 5-6; the slowest, stage ")
    assert "ms a microbatch, 1.0" in line
    agreed = world.run(lambda comm: comm.allgather(np.array(job.workers[comm.rank].placement.ranges)))[0]
    assert (agreed[0] == agreed[1]).all()
    assert [m.loss for m in job.fit(1, report=lambda step: None)]


def test_parameters_know_nothing_of_time():
    placed = trainer(slow(0, 0, 0, 0, 0)).placement  # 20 parameters, none, 15
    assert placed == place_by_parameters(slow(1, 2, 3, 4, 5), [1, 1])
    assert placed.by_stage == [20, 15]
    assert str(placed).startswith("2 stages by parameters: layers 0")


def test_by_hand():
    job = trainer(slow(0, 0, 0), stages=[1, 4])
    assert job.placement.ranges == [(0, 1), (1, 5)]
    assert str(job.placement).startswith("2 stages by hand: layers 0, 1-4; the slowest, stage 0, has 20 parameters, 1.")
    assert len(job.workers[1].stages[1].layers) == 4


REFUSED = {
    "too few stages": ({"stages": [5]}, r"stages = \[5\] makes 1 stages of 5 layers in all; expected 2 stages.* and 5 layers"),
    "too many layers": ({"stages": [3, 3]}, r"stages = \[3, 3\] makes 2 stages of 6 layers in all; expected 2 .* and 5 layers"),
    "too few layers": ({"stages": (2, 2)}, r"stages = \[2, 2\] makes 2 stages of 4 layers in all"),
    "an empty stage": ({"stages": [5, 0]}, r"stages = \[5, 0\] is not known; expected .* at least 1 each"),
    "a name": ({"stages": "even"}, "stages = 'even' is not known; expected parameters, auto"),
    "more stages than layers": ({"pp": 6, "stages": "auto"}, "6 stages were asked for and the model has 5 layers"),
    "too little memory": ({"stages": "auto", "memory_gib": 1e-9}, "no cut of 5 layers into 2 stages keeps within 1 bytes"),
    "a limit of nothing": (
        {"memory_gib": 2},
        "memory_gib = 2 limits stages = auto and schedule = automatic, and stages = parameters",
    ),
}


@pytest.mark.parametrize(("options", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        trainer(slow(0, 0, 0), **options)


layers = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=7)


@settings(max_examples=150, deadline=None)
@given(
    layers,
    st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from(["1f1b", "gpipe"]),
    st.integers(5, 120),
)
def test_no_cut_within_the_memory_is_faster(layers, widths, microbatches, name, limit):
    """Against every cut.  1F1B holds min(m, p - s) microbatches on stage s, GPipe all m (Narayanan et al. 2021, section 2).

    A stage with half as many replicas as the widest has twice the samples of each microbatch on a rank.
    """
    stages, more = len(widths), [max(widths) // width for width in widths]
    if stages > len(layers):
        return
    profile = [LayerProfile(forward=cost / 1e3, input_grad=0, weight_grad=0, saved=saved) for cost, saved in layers]
    kept = [[1.0] * len(layers)] * stages

    def fits(cuts):
        held = [min(microbatches, stages - s) if name == "1f1b" else microbatches for s in range(stages)]
        sizes = [sum(1 + held[s] * layers[i][1] * more[s] for i in range(a, b)) for s, (a, b) in enumerate(pairwise(cuts))]
        return max(sizes) <= limit

    every = [(0, *inner, len(layers)) for inner in combinations(range(1, len(layers)), stages - 1)]
    times = [
        max(sum(cost for cost, _ in layers[a:b]) * more[s] for s, (a, b) in enumerate(pairwise(cuts)))
        for cuts in every
        if fits(cuts)
    ]
    schedule = schedule_named(name)(stages, microbatches)
    if not times:
        with pytest.raises(ValueError, match="no cut of"):
            place_by_time(profile, schedule, kept, limit, widths)
        return
    placed = place_by_time(profile, schedule, kept, limit, widths)
    assert max(placed.by_stage) == pytest.approx(min(times))
    assert fits([0, *(stop for _, stop in placed.ranges)])


def test_stages_of_a_rank_share_its_memory():
    """Two stages on rank 0 and one on rank 1, of layers of 10 bytes: with 60 a rank, 3 layers in each of the two at most."""
    schedule = [[F(0, 0), F(2, 0)], [F(1, 0)]]
    profile = [LayerProfile(forward=1, input_grad=0, weight_grad=0, saved=0)] * 9
    kept = [[10.0] * 9] * 3
    assert place_by_time(profile, schedule, kept, 60, [1, 1, 1]).ranges == [(0, 3), (3, 6), (6, 9)]
    sizes = [stop - start for start, stop in place_by_time(profile, schedule, kept, 50, [1, 1, 1]).ranges]
    assert sizes == [2, 5, 2]
    with pytest.raises(ValueError, match="no cut of 9 layers into 3 stages keeps within 40 bytes a rank, the best needs 50"):
        place_by_time(profile, schedule, kept, 40, [1, 1, 1])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_by_hand_every_layer_is_in_one_stage(counts):
    model = mt.nn.Model([mt.nn.Linear(1, 1) for _ in range(sum(counts))], mt.nn.MeanSquaredError())
    placed = place_by_hand(model, counts, [1] * len(counts))
    assert [i for start, stop in placed.ranges for i in range(start, stop)] == list(range(sum(counts)))
    assert [stop - start for start, stop in placed.ranges] == counts


EQUAL = {
    "gpt-auto": Case(gpt(), tokens, 1, 2, 3, "1f1b", 6, "float64", settings={"stages": "auto"}),
    "gpt-by-hand": Case(gpt(), tokens, 2, 2, 2, "1f1b", 8, "float64", settings={"stages": [1, 4]}),
    "mlp-auto-two-chunks": Case(mlp, vectors, 1, 2, 4, "interleaved", 8, "float64", settings={"stages": "auto"}),
    "gpt-by-hand-weights-shared-out": Case(
        gpt(), tokens, 2, 2, 2, "1f1b", 8, "float64", settings={"stages": [4, 1], "zero": 3}
    ),
    "gpt-auto-weights-shared-out": Case(gpt(), tokens, 2, 2, 2, "gpipe", 8, "float64", settings={"stages": "auto", "zero": 3}),
}


@pytest.mark.parametrize("case", EQUAL.values(), ids=EQUAL)
def test_one_rank_computes_the_same(case):
    check(mt.comm.local(case.size), case)


@pytest.mark.usefixtures("clock")
def test_the_last_layers_time_includes_the_loss():
    class SlowLoss(mt.nn.CrossEntropy):
        def __call__(self, y, targets):
            CLOCK.now += 0.03
            return super().__call__(y, targets)

    model = mt.nn.Model([mt.nn.Linear(4, 4), Slow(0.01), mt.nn.Linear(4, 3)], SlowLoss())
    assert trainer(model, stages="auto").placement.ranges == [(0, 2), (2, 3)]


def test_a_residual_network_can_be_profiled():
    from layout_cases import images

    job = trainer(resnet(), samples=images(), stages="auto", microbatches=2, batch=4)
    assert len(job.placement.costs) == len(resnet().layers)
    assert min(job.placement.costs) > 0
