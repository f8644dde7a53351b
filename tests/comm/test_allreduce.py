"""Every algorithm equals NumPy for any rank count, size, dtype and operation, and leaves the same bits on all ranks."""

from __future__ import annotations

import gc
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.arrays import BFLOAT16, Arrays
from mpitrain.comm import InFlight, Reduction, finish, local
from mpitrain.comm.allreduce import Allreduce, Hierarchical, halving, native, native_by_request, ring
from mpitrain.comm.shared import shared_memory

FLOATS = [np.float16, BFLOAT16, np.float32, np.float64]
INTEGERS = [np.int32, np.int64, np.uint8]
NUMPY = {
    Reduction.SUM: np.sum,
    Reduction.MEAN: np.mean,
    Reduction.MAX: np.max,
    Reduction.MIN: np.min,
    Reduction.PRODUCT: np.prod,
}
PLAIN = {"native": native, "native by request": lambda *x: native_by_request()(*x), "ring": ring, "halving": halving}


def hosts_of(comm, spread):
    """The ranks of `comm` on as many make-believe hosts as `spread` has numbers: rank r is on host spread[r % len(spread)]."""
    mine = spread[comm.rank % len(spread)]
    return comm.group([rank for rank in range(comm.size) if spread[rank % len(spread)] == mine])


def combined(comm, data, op, spread=(0,)):
    """What each algorithm makes of this rank's `data`, by name."""
    found = {}
    for name, algorithm in PLAIN.items():
        found[name] = data.copy()
        finish(algorithm(comm, found[name], op, 3))
    for name, host in (("hierarchical", None), ("hierarchical over hosts", hosts_of(comm, spread))):
        algorithm = Hierarchical(comm, host)
        found[name] = data.copy()
        finish(algorithm(comm, found[name], op, 3))
        kept = algorithm.memory(len(data), data.dtype)
        kept[:] = data
        finish(algorithm(comm, kept, op, 4))
        found[f"{name}, in its memory"] = kept
    return found


def check(results, everyone, op):
    """All ranks hold the same bits, and these are NumPy's up to rounding."""
    dtype = everyone.dtype
    exact = NUMPY[op](everyone.astype(np.float64), axis=0)
    scale = NUMPY[Reduction.SUM](np.abs(everyone.astype(np.float64)), axis=0) if op is not Reduction.PRODUCT else np.abs(exact)
    for name, first in results[0].items():
        assert first.dtype == dtype
        for other in results[1:]:
            assert first.tobytes() == other[name].tobytes(), f"{name}: ranks differ"
        if dtype in FLOATS and op not in (Reduction.MAX, Reduction.MIN):
            wide = np.dtype(dtype).itemsize == 8
            # p - 1 roundings (and the mean's) in the type of the sum, then one to the array's own; each is relative to a
            # partial sum, which is no larger than the sum of magnitudes.
            bound = len(everyone) * (2.0**-53 if wide else 2.0**-24) * scale
            bound += float(ml_dtypes.finfo(dtype).eps) / 2 * np.abs(exact) + float(ml_dtypes.finfo(dtype).smallest_subnormal)
            assert (np.abs(first.astype(np.float64) - exact) <= 1.01 * bound).all(), name
        else:
            np.testing.assert_array_equal(first.astype(np.float64), exact, err_msg=name)


@st.composite
def cases(draw):
    """Data of up to 7 ranks, the operation, and their hosts."""
    op = draw(st.sampled_from(list(Reduction)))
    dtype = np.dtype(draw(st.sampled_from(FLOATS if op is Reduction.MEAN else FLOATS + INTEGERS)))
    ranks, size = draw(st.integers(1, 7)), draw(st.sampled_from([0, 1, 2, 3, 7, 8, 40, 1000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype in FLOATS:
        everyone = random.uniform(0.5, 1.5, (ranks, size)) * random.choice([-1, 1], (ranks, size))
    else:
        everyone = random.integers(0, 3, (ranks, size))
    return everyone.astype(dtype), op, draw(st.lists(st.integers(0, 2), min_size=1, max_size=7))


@settings(max_examples=30, deadline=None)
@given(cases())
def test_every_algorithm_equals_numpy(case):
    everyone, op, spread = case
    check(local(len(everyone)).run(lambda comm: combined(comm, everyone[comm.rank], op, spread)), everyone, op)


@pytest.mark.mpi([2, 5])
def test_every_algorithm_equals_numpy_through_mpi(comm):
    sizes = ((0, [np.float32]), (1, [np.float64, BFLOAT16]), (5, [np.int64]), (70_001, [np.float32]))
    check_through_mpi(comm, sizes)


@pytest.mark.mpi([2, 3])
def test_every_algorithm_goes_in_chunks_where_mpi_counts_no_further(comm):
    """The way of `test_more_than_2_to_the_31_bytes`, at 16 elements or bytes a call."""
    from mpi4py import MPI

    from mpitrain.comm.mpi import MpiCommunicator

    chunked = MpiCommunicator(MPI.COMM_WORLD.Dup(), device_aware=False, chunk=16)
    check_through_mpi(chunked, [(size, [np.float32, BFLOAT16, np.uint8]) for size in (15, 16, 17, 100)])


def check_through_mpi(comm, sizes):
    random = np.random.default_rng(7)  # the same on every rank
    for size, dtypes in sizes:
        for dtype in dtypes:
            for op in (Reduction.SUM, Reduction.MAX, Reduction.PRODUCT):
                everyone = random.integers(1, 4, (comm.size, size)).astype(dtype)
                found = combined(comm, everyone[comm.rank], op, (0, 1, 0))
                results = [
                    {name: mine.view(dtype) for name, mine in zip(found, ranks, strict=True)}
                    for ranks in zip(*(comm.allgather(x.view(np.uint8)) for x in found.values()), strict=True)
                ]
                check(results, everyone, op)


#: Makes a combination in the array's own memory, or in memory of the algorithm's.
LARGE = {**PLAIN, "hierarchical": Hierarchical, "hierarchical, in its memory": Hierarchical}


@pytest.mark.large
@pytest.mark.mpi(2, timeout=300)
@pytest.mark.parametrize("name", LARGE)
def test_more_than_2_to_the_31_bytes(comm, name):
    """More elements, too, than 32 bits can count."""
    shared = LARGE[name](comm) if name not in PLAIN else None
    algorithm = shared or PLAIN[name]
    period, count = 61, 2**31 + 2**20 + 1
    pattern = np.arange(period << 20, dtype=np.uint32) % period
    x = shared.memory(count, np.uint8) if "its memory" in name else np.empty(count, np.uint8)
    for start in range(0, count, len(pattern)):  # no two neighbours are alike, and no large power of two is a period
        part = x[start : start + len(pattern)]
        part[...] = (comm.rank + 1) * pattern[: len(part)]
    finish(algorithm(comm, x))
    for start in range(0, count, len(pattern)):
        part = x[start : start + len(pattern)]
        assert np.array_equal(part, 3 * pattern[: len(part)]), f"wrong between {start} and {start + len(part)}"


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_pieces_blocks_and_stages_of_long_arrays(ranks, monkeypatch):
    for algorithm, name, value in ((ring, "PIECE_BYTES", 64), (Hierarchical, "_BLOCK", 7), (Hierarchical, "_STAGE_BYTES", 256)):
        monkeypatch.setattr(sys.modules[algorithm.__module__], name, value)
    for size in (30, 64, 1001):
        everyone = np.random.default_rng(size).standard_normal((ranks, size)).astype(np.float32)
        run = lambda comm: combined(comm, everyone[comm.rank], Reduction.SUM, (0, 1))  # noqa: B023, E731  # run at once
        check(local(ranks).run(run), everyone, Reduction.SUM)


@pytest.mark.mpi(3, local=True)
def test_16_bit_floats_are_rounded_once(comm):
    for dtype in (np.float16, BFLOAT16):
        # 1 and twice half the spacing above it: rounded after each addition that stays 1 (ties go to even).
        spacing = float(ml_dtypes.finfo(dtype).eps)
        data = np.full(3, 1.0 if comm.rank == 0 else spacing / 2, dtype)
        for name, x in combined(comm, data, Reduction.SUM, (0, 1)).items():
            np.testing.assert_array_equal(x.astype(np.float64), 1 + spacing, err_msg=name)


@pytest.mark.mpi(3, local=True)
def test_several_are_under_way_at_once(comm):
    kept = Hierarchical(comm)
    for algorithm in (native_by_request(), ring, halving, kept):
        arrays = [np.full(1000, comm.rank + i, np.float32) for i in range(4)]
        under_way = [InFlight(algorithm(comm, x, Reduction.SUM, i)) for i, x in enumerate(arrays)]
        order = under_way if comm.rank == 0 else under_way[::-1]
        while order:
            order = [collective for collective in order if not collective.advance()]
        for i, x in enumerate(arrays):
            np.testing.assert_array_equal(x, 3 + 3 * i)


@pytest.mark.parametrize("name", ["native", "native by request", "ring", "halving", "hierarchical"])
@pytest.mark.parametrize("other", [900, 1100])
def test_a_rank_with_another_size_is_named(name, other):
    def run(comm):
        algorithm = Allreduce(comm, name.partition(" ")[0], overlapped=name != "native")
        finish(algorithm(np.ones(other if comm.rank == 1 else 1000, np.float32)))

    with pytest.raises(ValueError, match=r"rank \d .*rank \d .*same shape and dtype"):
        local(4).run(run)


@pytest.mark.parametrize("name", ["native", "native_by_request()", "ring", "Hierarchical(comm)"])
def test_a_job_ends_where_a_rank_brings_another_size(name, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from mpitrain.comm import finish, world\n"
        "from mpitrain.comm.allreduce import Hierarchical, native, native_by_request, ring\n"
        f"world().run(lambda comm: finish({name}(comm, np.ones(3000 if comm.rank == 1 else 1000))))\n"
    )
    line = [sys.executable, "-m", "mpitrain", "run", "-n", "2", str(script)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode
    assert re.search(r"ValueError: .*rank \d.*same shape and dtype", done.stderr), done.stderr


def test_memory_is_combined_where_it_is_as_long_as_a_view_of_it_lives():
    def run(comm):
        algorithm = Hierarchical(comm)
        view = algorithm.memory(10, np.float32)[2:]
        gc.collect()
        assert len(algorithm._others) == 1
        assert sum(nbytes_of_roots(view)) == 40
        del view
        gc.collect()
        assert not algorithm._others

    local(2).run(run)


def nbytes_of_roots(array):
    while array.base is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return [array.nbytes]


@pytest.mark.mpi(3, local=True)
def test_shared_memory_is_seen_by_all(comm):
    parts = shared_memory(comm, 5000)
    assert [part.nbytes for part in parts] == [5000] * 3
    assert not any(part.any() for part in parts)
    comm.barrier()
    parts[comm.rank][:] = comm.rank + 1
    comm.barrier()
    assert [set(part.tolist()) for part in parts] == [{1}, {2}, {3}]


@pytest.mark.mpi(2, local=True)
def test_without_shared_memory_hierarchical_says_so(comm, monkeypatch):
    monkeypatch.setattr("mpitrain.comm.shared._map", lambda *_: None)
    assert shared_memory(comm, 10) is None
    with pytest.raises(ValueError, match="native, ring or halving"):
        Allreduce(comm, "hierarchical")
    algorithm, x = Allreduce(comm), np.ones(5)
    finish(algorithm(x))
    np.testing.assert_array_equal(x, 2)


@pytest.mark.mpi(2, local=True)
def test_choice_by_name_and_by_measurement(comm):
    for name in ("auto", "native", "ring", "halving", "hierarchical"):
        algorithm = Allreduce(comm, name)
        for size in (1, 1000, 100_000):
            if name != "auto":
                assert algorithm.choice(4 * size) == name
            x = algorithm.zeros(Arrays(), size, np.dtype(np.float32))
            x += comm.rank + 1
            finish(algorithm(x))
            np.testing.assert_array_equal(x, 3)
    with pytest.raises(ValueError, match="'tree' is not known; expected one of auto, native"):
        Allreduce(comm, "tree")


def test_one_rank_combines_with_nobody():
    def run(comm):
        for name in ("auto", "native", "hierarchical"):
            x = np.arange(5.0)
            finish(Allreduce(comm, name)(x, Reduction.MEAN))
            np.testing.assert_array_equal(x, np.arange(5.0))

    local(1).run(run)
