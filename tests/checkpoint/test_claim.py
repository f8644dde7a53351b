"""Which folder a job writes to: rank 0 chooses, and makes it so that no other job can choose it too."""

import time
from pathlib import Path

import pytest

from mpitrain.checkpoint import claim, claim_run
from mpitrain.comm import local


def run_folder(base, *, ranks=1, fresh=True):
    return local(ranks).run(lambda comm: claim_run(comm, base, fresh=fresh))[0]


def test_folders_are_numbered_and_the_newest_is_gone_on_with(tmp_path):
    base = tmp_path / "runs" / "two"
    kept = [run_folder(base), run_folder(base), run_folder(base)]
    assert [c.path.name for c in kept] == ["two", "two-2", "two-3"]
    for c in kept:
        (c.path / "config.toml").touch()
        c.release()
    with run_folder(base, fresh=False) as again:
        assert again.path.name == "two-3"
        with pytest.raises(ValueError, match="two-3 belongs to another job"):
            run_folder(base, fresh=False)


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    run_folder(tmp_path / "two").release()
    assert list(tmp_path.iterdir()) == []


def test_of_two_jobs_that_find_the_same_number_free_one_takes_the_next(tmp_path, monkeypatch):
    base, original = tmp_path / "two", Path.mkdir

    def rivalled(path, *given, **settings):
        if path == base and not base.exists():  # the other job is faster by a moment
            original(path)
        original(path, *given, **settings)

    monkeypatch.setattr(Path, "mkdir", rivalled)
    assert run_folder(base).path.name == "two-2"


def test_a_rank_that_comes_late_has_the_folder_that_the_first_chose(tmp_path):
    base = tmp_path / "two"

    def chosen(comm):
        while comm.rank == 1 and not (base / "owner").exists():
            time.sleep(1e-3)
        return claim_run(comm, base, fresh=True)

    claims = local(3).run(chosen)
    assert [c.path for c in claims] == [base] * 3
    assert [c.lock is None for c in claims] == [False, True, True]


@pytest.mark.parametrize("make", [claim, lambda comm, folder: claim_run(comm, folder, fresh=True)])
def test_a_folder_that_cannot_be_made_is_a_sentence_on_every_rank(tmp_path, make):
    (tmp_path / "file").touch()

    def message(comm):
        with pytest.raises(
            ValueError, match=r"^the folder .*two cannot be written \(.*Error.*\); expected one that every"
        ) as e:
            make(comm, tmp_path / "file" / "two")
        return str(e.value)

    assert len(set(local(2).run(message))) == 1


def test_a_folder_that_only_one_rank_cannot_make_is_refused_by_all_and_given_back(tmp_path):
    """As with disks of their own: here they have paths of their own."""
    (tmp_path / "disk1").touch()

    def message(comm):
        with pytest.raises(ValueError, match=r"^rank 1: the folder .*disk1/two cannot be written") as e:
            claim(comm, tmp_path / f"disk{comm.rank}" / "two")
        return str(e.value)

    assert len(set(local(2).run(message))) == 1
    assert list((tmp_path / "disk0" / "two").iterdir()) == []
