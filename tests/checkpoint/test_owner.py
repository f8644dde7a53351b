"""One job at a time writes to a folder: who it is, when a lock is stale, and who gets it then."""

import os
import subprocess
import sys
import threading
import warnings

import pytest

from mpitrain.checkpoint import owner
from mpitrain.checkpoint.owner import Lock, Owner


def plant(folder, *, age_s=0.0, **changes):
    """A lock as another job wrote it."""
    (folder / "owner").mkdir()
    file = folder / "owner" / "owner.json"
    file.write_text(Owner.here().model_copy(update={"token": "theirs", **changes}).model_dump_json())
    written = file.stat().st_mtime - age_s
    os.utime(file, (written, written))
    return file


def ended_process():
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    return child.pid


def test_a_second_job_is_told_who_owns_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    first = Lock(tmp_path)
    with pytest.raises(ValueError, match=rf"belongs to another job, process {os.getpid()} on .*, Slurm job 4711, started 2"):
        Lock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["owner"]
    first.release()
    assert list(tmp_path.iterdir()) == []
    Lock(tmp_path).release()


def test_a_lock_that_nothing_refers_to_is_given_back(tmp_path):
    Lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


STALE = {
    "its process has ended": lambda: {"pid": ended_process()},
    "its number is another process's now": lambda: {"birth": "1"},
    "another machine, silent": lambda: {"machine": "elsewhere", "age_s": owner.LIMIT_S + 1},
}


@pytest.mark.parametrize("made", STALE.values(), ids=STALE)
def test_a_stale_lock_is_taken_over_and_said(tmp_path, made):
    plant(tmp_path, host="node7", **made())
    with pytest.warns(UserWarning, match=r"taking .* over from a job that never gave it back: process \d+ on node7"):
        lock = Lock(tmp_path)
    assert lock.lost() is None
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_read_is_stale_once_it_is_old(tmp_path):
    plant(tmp_path, age_s=owner.LIMIT_S + 1).open("w").close()
    os.utime(tmp_path / "owner" / "owner.json", (1, 1))
    with pytest.warns(UserWarning, match="on unknown"):
        Lock(tmp_path).release()


def test_a_job_on_another_machine_that_still_touches_its_lock_is_alive(tmp_path, monkeypatch):
    file = plant(tmp_path, machine="elsewhere", host="node7")
    monkeypatch.setattr(owner.time, "sleep", lambda seconds: os.utime(file, (1, 1)))  # while we watch
    with (
        pytest.raises(ValueError, match=r"belongs to another job, process .* on node7"),
        pytest.warns(UserWarning, match=r"watching for 120 s whether the owner of .* lives: process \d+ on node7"),
    ):
        Lock(tmp_path)


def test_a_job_on_another_machine_that_ends_while_we_watch_leaves_us_the_folder(tmp_path, monkeypatch):
    file = plant(tmp_path, machine="elsewhere")

    def end(seconds):
        file.unlink()
        file.parent.rmdir()

    monkeypatch.setattr(owner.time, "sleep", end)
    with pytest.warns(UserWarning, match="watching"):
        assert Lock(tmp_path).lost() is None


def test_a_process_that_was_killed_leaves_a_stale_lock(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from mpitrain.checkpoint.owner import Lock\n"
        "lock = Lock(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment)
    assert child.wait(60) == -9
    with pytest.warns(UserWarning, match=f"never gave it back: process {child.pid} on"):
        Lock(tmp_path)


def test_of_many_jobs_that_find_a_stale_lock_one_gets_it(tmp_path):
    plant(tmp_path, pid=ended_process())
    barrier, got, refused = threading.Barrier(8), [], []

    def job():
        barrier.wait()
        try:
            got.append(Lock(tmp_path))
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=job) for _ in range(8)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(got), len(refused), len(said)) == (1, 7, 1)
    assert got[0].lost() is None


def test_a_job_that_was_stopped_for_long_learns_that_its_folder_is_gone(tmp_path):
    lock = Lock(tmp_path)
    (tmp_path / "owner").rename(tmp_path / "owner.gone-theirs")
    plant(tmp_path, host="node7")
    assert "no longer belongs to this job: process" in lock.lost()
    lock.release()  # it is not ours to remove
    assert (tmp_path / "owner" / "owner.json").exists()
