"""Which checkpoints go after a save."""

import pytest

from mpitrain.checkpoint import prune
from mpitrain.comm import local


def pruned(folder, *, keep, written, ranks=3):
    return local(ranks).run(lambda comm: prune(comm, folder, keep, written=written))[0]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_whole_ones_stay(written, tmp_path):
    for step in (1, 2, 3, 4, 5):
        written(step)
    (tmp_path / "step-00000003.partial").mkdir()
    (tmp_path / "step-00000004" / "rank-00000.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"passing over .*step-00000004.*rank-00000.safetensors is missing"):
        gone = pruned(tmp_path, keep=2, written=5)
    assert [path.name for path in gone] == ["step-00000002", "step-00000001"]
    assert names(tmp_path) == ["step-00000003", "step-00000004", "step-00000005"]


def test_a_later_one_of_another_history_makes_none_go(written, tmp_path):
    """Step 9 was passed over when the run went on from 5, and nobody knows that its bits are wrong."""
    for step in (5, 9, 7):
        written(step)
    assert pruned(tmp_path, keep=2, written=7) == []
    assert [path.name for path in pruned(tmp_path, keep=1, written=7)] == ["step-00000005"]
    assert names(tmp_path) == ["step-00000007", "step-00000009"]
