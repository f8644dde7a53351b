"""Nobody waits for ever for a rank that does not come, and the one that is missing is named."""

import threading

import pytest

from mpitrain.comm import local, roll_call, rollcall


def test_no_rank_goes_on_before_the_last_has_come(monkeypatch):
    came, others_wait = [], threading.Event()
    monkeypatch.setattr(rollcall, "sleep", lambda seconds: others_wait.set())

    def run(comm):
        if comm.rank == 2:
            assert others_wait.wait(60)
        came.append(comm.rank)
        roll_call(comm, "the start", 30.0)
        assert len(came) == comm.size
        roll_call(comm, "the next place", 30.0)

    local(3).run(run)


@pytest.mark.parametrize(("missing", "speaker", "said"), [((2, 3), 0, "ranks 2-3 of 4"), ((0,), 1, "rank 0 of 4")])
def test_the_ranks_that_are_missing_are_named(monkeypatch, missing, speaker, said):
    """Time stands still until all others wait, and then passes for the one that is to speak."""
    passing, over = threading.Event(), threading.Event()
    all_wait = threading.Barrier(4 - len(missing), action=passing.set)

    def sleep(seconds):
        if not passing.is_set():
            all_wait.wait(60)

    def monotonic():
        return 1e9 * (passing.is_set() and threading.current_thread().name == f"rank {speaker}")

    def run(comm):
        try:
            if comm.rank in missing:
                over.wait(60)
            else:
                roll_call(comm, "Trainer()", 600.0)
        finally:
            over.set()

    monkeypatch.setattr(rollcall, "sleep", sleep)
    monkeypatch.setattr(rollcall, "monotonic", monotonic)
    with pytest.raises(TimeoutError, match=rf"^{said} did not come to Trainer\(\) within 60\d s, where the others wait"):
        local(4).run(run)
