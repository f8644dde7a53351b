"""A thread moves collectives on where cores are free for one; it changes no result, and what fails in it ends the job."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from layout_cases import gpt, tokens

import mpitrain as mt
from mpitrain.arrays import Arrays
from mpitrain.comm import ProgressThread, choose_progress, local, progress_thread
from mpitrain.selfcheck import gather

#: The cores that each of two ranks may run on, the threads that each computes on, and whether a third and a fourth are left.
HOSTS = [
    ([{0, 1}, {0, 1}], 1, False),
    ([{0, 1, 2, 3}, {0, 1, 2, 3}], 1, True),
    ([{0, 1, 2, 3}, {0, 1, 2, 3}], 2, False),
    ([{0}, {1}], 1, False),  # bound to a core each
    ([{0, 4}, {1, 5}], 1, True),
    ([{0, 1, 2, 3}, {3}], 1, False),  # a core is free, and the second rank may not use it
    ([{0, 1, 2, 3, 64}, {0, 1, 2, 3, 64}], 2, False),
]


@pytest.mark.mpi(2)
def test_a_thread_where_each_rank_has_a_core_for_it(comm, monkeypatch):
    for allowed, threads, chosen in HOSTS:
        monkeypatch.setattr(progress_thread, "allowed_cores", lambda allowed=allowed: allowed[comm.rank])
        monkeypatch.setattr(progress_thread, "computing_threads", lambda arrays, threads=threads: threads)
        found = choose_progress(comm, "auto", Arrays())
        assert found.thread == chosen, (allowed, threads)
        cores = len(allowed[0] | allowed[1])
        assert found.reason == f"{cores} cores for 2 ranks that compute on {2 * threads}"
    monkeypatch.setattr(progress_thread, "computing_threads", lambda arrays: 0 if comm.rank else 1)
    assert not choose_progress(comm, "auto", Arrays()).thread
    monkeypatch.setattr(comm, "concurrent", False)
    assert "THREAD_MULTIPLE" in choose_progress(comm, "auto", Arrays()).reason
    with pytest.raises(ValueError, match="progress = thread needs an MPI that was started with THREAD_MULTIPLE"):
        choose_progress(comm, "thread", Arrays())


@pytest.mark.parametrize("threads", [1, 2])
def test_computing_threads_are_those_of_the_library(threads):
    """As many as threadpoolctl, which comes with scikit-learn, reads out of it."""
    code = (
        "import numpy, threadpoolctl\n"
        "from mpitrain.arrays import Arrays\n"
        "from mpitrain.comm.progress_thread import computing_threads\n"
        "(library,) = [found for found in threadpoolctl.threadpool_info() if found['user_api'] == 'blas']\n"
        "print(computing_threads(Arrays()), library['num_threads'])\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    counted, told = map(int, done.stdout.split())
    assert counted == told


def test_ranks_that_are_threads_need_none_and_choices_are_named():
    assert not any(local(2).run(lambda comm: choose_progress(comm, "auto", Arrays()).thread))
    with pytest.raises(ValueError, match="progress 'threads' is not known; expected one of auto, thread, points"):
        local(1).run(lambda comm: choose_progress(comm, "threads", Arrays()))


#: Everything that has collectives of its own under way.
EXCHANGES = {
    "ring": {"allreduce": "ring"},
    "halving": {"allreduce": "halving"},
    "native": {"allreduce": "native"},
    "hierarchical": {"allreduce": "hierarchical"},
    **{f"zero {level}": {"zero": level} for level in (1, 2, 3)},
    "compressed": {"compression": mt.parallel.TopK(density=0.1)},
    "reproducible": {"reproducible": True},
}


def trainer(world, progress, exchange):
    return mt.Trainer(
        gpt()(),
        mt.optim.AdamW(lr=1e-2),
        tokens(),
        mesh=mt.Mesh(world, mt.Layout(dp=2)),
        microbatches=2,
        batch=8,
        bucket_mib=0.01,
        arrays="numpy",
        progress=progress,
        **EXCHANGES[exchange],
    )


def trained(world, progress, exchange):
    """Losses and weights after some steps, to the last bit, and how many bytes were sent."""
    job = trainer(world, progress, exchange)
    assert ("moved on by a thread (as set)" if progress == "thread" else "between ops") in next(
        iter(job.workers.values())
    ).reduction
    reports = []
    losses = [m.loss.hex() for m in job.fit(4, report=reports.append)]
    weights = world.run(lambda comm: gather(job.workers[comm.rank], lambda p: p.data))[0]
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
    return losses, {name: w.tobytes() for name, w in weights.items()}, [report.sent_bytes for report in reports]


@pytest.mark.mpi(2, local=True, timeout=120)
def test_the_thread_changes_no_bit(world):
    for exchange in EXCHANGES:
        print(exchange, flush=True)
        assert trained(world, "thread", exchange) == trained(world, "points", exchange)


class InThread:
    """A request that is done once the progress thread asks."""

    def done(self):
        return threading.current_thread().name == "progress"

    def wait(self):
        raise AssertionError("the thread should have come first")


def test_what_fails_in_the_thread_fails_the_rank_once():
    job = trainer(local(2), "thread", "ring")
    job.fit(1, report=lambda step: None)
    (stage,) = job.workers[1].replicas.stages.values()
    started, failed = threading.Event(), threading.Event()

    def exchange(bucket):
        started.set()
        yield InThread()
        assert threading.current_thread().name == "progress"
        failed.set()
        raise ZeroDivisionError("broken in the thread")

    stage.exchange = exchange
    compute = job.workers[1].compute
    compute.between = lambda: started.is_set() and failed.wait(60)  # the thread comes by for sure
    with pytest.raises(ZeroDivisionError, match="broken in the thread") as caught:
        job.fit(1, report=lambda step: None)
    notes = caught.value.__notes__
    assert len([note for note in notes if note.startswith("in the sum over replicas of bucket")]) == 1
    assert any(note.startswith("in action 0") for note in notes)
    assert "on rank 1 of 2" in notes


def test_what_fails_in_the_thread_is_raised_at_the_latest_at_the_end():
    failed = threading.Event()

    def fail():
        failed.set()
        raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError, match="broken"), ProgressThread(fail, lambda: None):
        assert failed.wait(60)
    failed.clear()

    def fail_too():
        with ProgressThread(fail, lambda: None):
            assert failed.wait(60)
            raise KeyError("another")

    with pytest.raises(ZeroDivisionError, match="broken") as caught:
        fail_too()
    assert isinstance(caught.value.__context__, KeyError)


def test_a_job_ends_where_the_thread_fails_and_the_rank_is_stuck(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from mpitrain.comm import ProgressThread, progress_thread, world\n"
        "progress_thread._GRACE_S = 0.2\n"
        "def run(comm):\n"
        "    with ProgressThread(lambda: [][comm.rank], lambda: None):\n"
        "        comm.irecv(np.zeros(1), 1 - comm.rank, 0).wait()\n"
        "world().run(run)\n"
    )
    line = [sys.executable, "-m", "mpitrain", "run", "-n", "2", str(script)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "IndexError: list index out of range" in done.stderr, done.stderr


class Done:
    def done(self):
        return True

    def wait(self):
        return


def test_a_collective_is_moved_on_by_one_thread_at_a_time():
    steps = []

    def count():
        for step in range(100):
            yield Done()
            time.sleep(1e-4)  # lets the others in, and a generator that runs cannot be run
            steps.append(step)

    under_way = mt.comm.InFlight(count())
    threads = [threading.Thread(target=lambda: [under_way.advance() for _ in range(100)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    under_way.finish()
    for thread in threads:
        thread.join()
    assert steps == list(range(100))
    assert under_way.advance()
