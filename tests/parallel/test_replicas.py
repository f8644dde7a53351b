"""Ranks that were given different things, and replicas that have drifted apart, say so on every rank."""

import re
import threading

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.arrays import BFLOAT16, Arrays
from mpitrain.arrays.tiles import TILE_BYTES
from mpitrain.config.config import Config
from mpitrain.nn import Linear, Sequential
from mpitrain.parallel import check_arithmetic, check_start, check_weights, checksum
from mpitrain.program import Kind


def test_ranks_that_round_differently_are_all_named():
    def check(comm):
        with pytest.raises(ValueError, match="needs ranks that round alike") as caught:
            check_arithmetic(comm, {"BLAS": "Zen" if comm.rank in (1, 3) else "Haswell", "NumPy": "2"})
        return str(caught.value)

    said = mt.comm.local(5).run(check)
    assert len(set(said)) == 1
    assert "BLAS Haswell; NumPy 2 on rank 0, 2, 4, BLAS Zen; NumPy 2 on rank 1, 3" in said[0]


def test_reproducible_refuses_ranks_that_round_differently(monkeypatch):
    cpus = iter(["Haswell", "Zen", "Haswell", "Zen"])
    monkeypatch.setattr("mpitrain.train.arithmetic", lambda arrays: {"BLAS": next(cpus)})
    model, data = mt.nn.models.MLP(sizes=(3, 2)), mt.data.ArrayDataset(np.zeros((4, 3), np.float32), np.zeros(4, int))

    def job(**settings):
        mesh = mt.Mesh(mt.comm.local(2), mt.Layout(dp=2))
        return mt.Trainer(model, mt.optim.SGD(lr=0.1), data, mesh=mesh, arrays="numpy", **settings)

    job()
    with pytest.raises(ValueError, match=r"BLAS (Haswell|Zen) on rank \d, BLAS (Haswell|Zen) on rank \d"):
        job(reproducible=True)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32, np.float64])
def test_a_checksum_sees_every_bit_of_every_element(dtype):
    x = np.random.default_rng(0).normal(size=(700, 200)).astype(dtype)  # two tiles or more
    expected = checksum(x)
    assert checksum(np.asfortranarray(x)) == checksum(x.copy()) == expected
    bits = x.reshape(-1).view(f"u{x.itemsize}")
    for place in (0, 1, 31_337, x.size - 1):
        for bit in range(8 * x.itemsize):
            bits[place] ^= bits.dtype.type(1 << bit)
            assert checksum(x) != expected
            bits[place] ^= bits.dtype.type(1 << bit)
    assert checksum(x) == expected
    for a, b in ((0, 1), (0, x.size - 1), (5, 5 + TILE_BYTES // x.itemsize)):
        bits[[a, b]] = bits[[b, a]]
        assert checksum(x) != expected
        bits[[a, b]] = bits[[b, a]]


def test_a_checksum_is_the_sum_of_words_times_odd_numbers():
    x = np.array([1.0, -0.0, np.nan, 3.4e38], np.float32)
    words = [int(word) for word in x.view(np.uint32)]
    assert checksum(x) == (words[0] + 3 * words[1] + 5 * words[2] + 7 * words[3]) % 2**64
    assert checksum(np.zeros((0, 3), np.float32)) == 0


def layers(comm):
    stage = Sequential([Linear(3, 4), Linear(4, 2)])
    for name, p in zip(("a", "b", "c", "d"), stage.parameters(), strict=True):
        p.name = name
    stage.materialize(Arrays(), np.dtype(np.float32), seed=0)
    return stage.parameters()


def complaint(function, *arguments):
    with pytest.raises(ValueError, match=r"^rank \d has") as caught:
        function(*arguments)
    return str(caught.value)


def drift(parameters):
    parameters[2].data[1, 3] = np.nextafter(parameters[2].data[1, 3], np.float32(9))


def swap(parameters):
    parameters[0], parameters[1] = parameters[1], parameters[0]


def shorten(parameters):
    del parameters[3]


def widen(parameters):
    parameters[1].data = parameters[1].data.astype(np.float64)


DIFFERENCES = {
    "weights": (drift, r"rank 1 has c \(2, 4\) float32 with checksum \w{16} where rank 0 has c \(2, 4\) float32 with checksum"),
    "order": (swap, r"rank 1 has b \(4,\) float32 .* where rank 0 has a \(4, 3\) float32"),
    "number": (shorten, r"rank 1 has nothing more where rank 0 has d \(2,\)"),
    "dtype": (widen, r"rank 1 has b \(4,\) float64 .* where rank 0 has b \(4,\) float32"),
}


@pytest.mark.mpi(4, local=True)
def test_weights_that_differ_are_named_on_every_rank(comm):
    """dp=2 x pp=2, and the fault is on rank 1: ranks 2 and 3, of another stage, raise the same."""
    layout = mt.Layout(dp=2, pp=2)
    pp = comm.rank // 2
    dp = comm.group([2 * pp, 2 * pp + 1])
    place = mt.comm.Place(comm=comm, layout=layout, dp=dp, pp_rank=pp, links=comm)
    check_weights(place, layers(comm), {})
    for change, says in DIFFERENCES.values():
        parameters = layers(comm)
        if comm.rank == 1:
            change(parameters)
        said = complaint(check_weights, place, parameters, {})
        words = comm.allgather(np.frombuffer(said.encode().ljust(400), np.uint8).copy())
        assert (words == words[0]).all()
        assert re.match(says, said), said


class Texts:
    """The data of a host whose text is another one: `replaced` in the sentence that all have."""

    def __init__(self, *replaced):
        text = ("To be, or not to be, that is the question. " * 20).replace(*replaced or ("", ""), 1)
        self.tokens = mt.data.TokenDataset(np.frombuffer(text.encode(), np.uint8), 8)

    def __len__(self):
        return len(self.tokens)

    def batch(self, numbers):
        return self.tokens.batch(numbers)


def model(width=8):
    return mt.nn.models.GPT(width=width, depth=1, heads=2, vocab=128, context=8)


STARTS = {
    "a longer text": (model(), Texts("be", "exist until then"), r"rank 1 has 109 samples of data where rank 0 has 107 samples"),
    "another letter": (model(), Texts("To", "to"), r"rank 1 has sample 0 of the data \(\w{16}\) where rank 0 has sample 0 of"),
    "another model": (model(16), Texts(), r"rank 1 has parameter \S+ \(128, 16\) where rank 0 has parameter \S+ \(128, 8\)"),
}


@pytest.mark.mpi(3, local=True)
def test_ranks_that_start_with_different_things_say_so(comm):
    check_start(comm, model(), {"data": Texts(), "more": None})
    for other_model, other_data, says in STARTS.values():
        given = (other_model, other_data) if comm.rank == 1 else (model(), Texts())
        said = complaint(check_start, comm, given[0], {"data": given[1], "more": None})
        assert re.match(says, said), said


class OnItsHost:
    """A dataset of which rank 1 reads another version."""

    def __init__(self):
        self.versions = Texts(), Texts("question", "quest")

    def _version(self):
        return self.versions[threading.current_thread().name == "rank 1"]

    def __len__(self):
        return len(self._version())

    def batch(self, numbers):
        return self._version().batch(numbers)


def trainer(data=None, *, dp=2, pp=1, **settings):
    mesh = mt.Mesh(mt.comm.local(dp * pp), mt.Layout(dp=dp, pp=pp))
    settings = {"batch": 4, "arrays": "numpy"} | settings
    return mt.Trainer(model(), mt.optim.SGD(lr=0.1), data or Texts(), mesh=mesh, **settings)


def quiet(report):
    pass


@pytest.mark.parametrize("name", ["data", "validation"])
def test_a_trainer_compares_its_data_when_it_is_made(name):
    called = {"data": "training data", "validation": "validation data"}[name]
    with pytest.raises(
        ValueError, match=rf"rank 1 has sample \d+ of the {called} .* where rank 0 has sample .*compare the files of the hosts"
    ):
        trainer(**{name: OnItsHost()})


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_sound_job_passes_in_debug_mode(zero):
    job = trainer(dp=2, pp=2, zero=zero, debug=True, check_every=1)
    job.fit(3, report=quiet)
    job.check_replicas()


@pytest.mark.parametrize("debug", [False, True])
def test_replicas_that_drift_apart_are_found_by_the_next_check(debug):
    job = trainer(dp=2, pp=2, debug=debug, check_every=3)
    steps = []
    straying = job.workers[3]
    step = straying.handlers[Kind.STEP]

    def stray(action):
        step(action)
        if straying.step == 4:
            straying.holding.owned[0].data.reshape(-1)[0] += 1e-3

    straying.handlers[Kind.STEP] = stray
    says = r"rank 3 has layers\.\S+ \(.*\) float32 with checksum \w+ where rank 2 has layers"
    if debug:
        with pytest.raises(ValueError, match=says):
            job.fit(20, report=lambda report: steps.append(report.step))
        assert steps[-1] == 5
    else:
        job.fit(8, report=quiet)
        with pytest.raises(ValueError, match=says):
            job.check_replicas()


@pytest.mark.parametrize("dp", [2, (2, 1), (1, 2)])
def test_copies_of_a_shared_weight_are_compared_over_the_pipeline(dp):
    """All replicas of the last stage have the same, and another one than the first stage has."""
    layout = mt.Layout(dp=dp, pp=2)
    mesh = mt.Mesh(mt.comm.local(layout.size), layout)
    job = mt.Trainer(model(), mt.optim.SGD(lr=0.1), Texts(), mesh=mesh, batch=4, microbatches=2, arrays="numpy")
    job.fit(2, report=quiet)
    job.check_replicas()
    for rank in layout.replicas(1):
        (copy,) = (p for p in job.workers[rank].holding.replicated if p.name in job.workers[rank].holding.shared)
        copy.data[5, 3] = np.nextafter(copy.data[5, 3], np.float32(9))
    first = layout.replicas(1)[0]
    with pytest.raises(
        ValueError, match=rf"rank {first} has layers\S+ .* where rank 0 has layers\S+ .*; the copies of a shared"
    ):
        job.check_replicas()


def test_debug_mode_looks_before_the_first_step():
    job = trainer(debug=True)
    job.workers[1].holding.replicated[0].data[0] = 7
    with pytest.raises(ValueError, match="rank 1 has"):
        job.fit(1, report=lambda report: pytest.fail("a step was taken"))


def test_the_configuration_can_ask_for_it():
    sections = {
        "run": {"name": "x", "steps": 1},
        "model": {"kind": "mlp", "sizes": (64, 10)},
        "data": {"kind": "digits"},
        "train": {"batch": 4},
        "optimizer": {"kind": "sgd", "lr": 0.1},
    }
    assert not Config.model_validate(sections).debug.enabled
    debug = Config.model_validate(sections | {"debug": {"enabled": True, "every": 7}}).debug
    assert (debug.enabled, debug.every) == (True, 7)
