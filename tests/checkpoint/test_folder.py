"""Which checkpoint of a folder is the newest, as one process sees it."""

import pytest

from mpitrain.checkpoint import is_checkpoint, newest


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
