"""Which checkpoint of a folder is taken, and which go."""

import pytest

from mpitrain.checkpoint import is_checkpoint, newest, prune


def test_the_newest_whole_one_is_found(written, tmp_path):
    assert newest(tmp_path / "nowhere") is None
    paths = [written(step)[0] for step in (5, 100, 20)]
    (tmp_path / "step-00000200.partial").mkdir()
    (tmp_path / "notes").mkdir()
    assert newest(tmp_path) == paths[1]
    (paths[1] / "rank-00001.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"passing over .*step-00000100.*rank-00001.safetensors.*missing"):
        assert newest(tmp_path) == paths[2]
    assert is_checkpoint(paths[2])
    assert not is_checkpoint(tmp_path)


def test_pruning_keeps_the_newest_whole_ones(written, tmp_path):
    for step in (1, 2, 3, 4, 5):
        written(step)
    (tmp_path / "step-00000003.partial").mkdir()
    (tmp_path / "step-00000005" / "rank-00000.safetensors").unlink()
    with pytest.warns(UserWarning, match="step-00000005"):
        gone = prune(tmp_path, keep=2)
    assert sorted(path.name for path in gone) == ["step-00000001", "step-00000002", "step-00000003.partial"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004", "step-00000005"]
