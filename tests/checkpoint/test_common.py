"""The checkpoint that all ranks go on from: the newest that they can read together, from one disk or from several."""

import shutil

import numpy as np
import pytest

from mpitrain.checkpoint import Checkpoint, Entry, common, find, prune, save
from mpitrain.comm import local

RANKS = 4


def disk(folder, comm):
    """Two ranks share each disk."""
    return folder / f"disk{comm.rank // 2}"


@pytest.fixture
def spread(tmp_path):
    """A function that writes a checkpoint of a step, on two disks: rank r holds the matrix `w<r>`, all of it its number."""

    def write(step):
        def part(comm):
            entry = Entry(name=f"w{comm.rank}", array=np.full((2, 3), comm.rank), shape=(2, 3), box=((0, 2), (0, 3)))
            return save(disk(tmp_path, comm), step, comm, [entry], {})

        local(RANKS).run(part)

    return write


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")


def agreed(folder, ranks=RANKS):
    """The step that ranks agree on."""

    def step(comm):
        found = find(comm, disk(folder, comm))
        return found and found.checkpoint.manifest.step

    steps = local(ranks).run(step)
    assert len(set(steps)) == 1
    return steps[0]


def flip_bit(file):
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 4
    file.write_bytes(raw)


def test_each_disk_has_its_ranks_files_and_everyone_the_manifest(spread, tmp_path):
    spread(5)
    first, second = (tmp_path / f"disk{i}" / "step-00000005" for i in (0, 1))
    assert files(first) == ["rank-00000.safetensors", "rank-00001.safetensors"]
    assert files(second) == ["rank-00002.safetensors", "rank-00003.safetensors"]
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()
    assert [path.name for path in (tmp_path / "disk1").iterdir()] == ["step-00000005"]
    assert agreed(tmp_path) == 5


def test_files_go_to_the_disks_whose_ranks_need_them(spread, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "_PIECE", 100)
    spread(5)

    def read(comm):
        """Every rank needs what the next one wrote; rank 1's is on another disk than rank 2's."""
        found = find(comm, disk(tmp_path, comm))
        name = f"w{(comm.rank + 1) % RANKS}"
        found.bring(comm, found.checkpoint.files_of(name, ((1, 2), (0, 3))))
        return Checkpoint(path=found.checkpoint.path, manifest=found.checkpoint.manifest).read(name, ((1, 2), (0, 3)))

    for i, array in enumerate(local(RANKS).run(read)):
        np.testing.assert_array_equal(array, np.full((1, 3), (i + 1) % RANKS))
    first, second = (tmp_path / f"disk{i}" / "step-00000005" for i in (0, 1))
    assert files(first) == [f"rank-0000{i}.safetensors" for i in (0, 1, 2)]
    assert files(second) == [f"rank-0000{i}.safetensors" for i in (0, 2, 3)]
    flip_bit(second / "rank-00000.safetensors")  # a copy is read by the ranks there, so it counts
    with pytest.raises(ValueError, match=r"none of the 1 checkpoints"), pytest.warns(UserWarning, match="rank-00000.*SHA-256"):
        agreed(tmp_path)


def cut(folder):
    file = folder / "disk1" / "step-00000006" / "rank-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


HURT = {
    "a flipped bit": (lambda f: flip_bit(f / "disk1" / "step-00000006" / "rank-00003.safetensors"), r"SHA-256"),
    "a cut file": (cut, r"bytes, expected"),
    "a lost file": (
        lambda f: (f / "disk0" / "step-00000006" / "rank-00001.safetensors").unlink(),
        r"rank-00001\.safetensors is missing: no rank sees it",
    ),
    "a disk that lacks it": (lambda f: shutil.rmtree(f / "disk1" / "step-00000006"), r"rank 2: .*is not a whole checkpoint"),
    "a damaged digest": (
        lambda f: (f / "disk0" / "step-00000006" / "manifest.sha256").write_bytes(b"\xff"),
        r"manifest\.json is damaged",
    ),
}


@pytest.mark.parametrize(("hurt", "says"), HURT.values(), ids=HURT)
def test_what_one_rank_cannot_read_no_rank_goes_on_from(spread, tmp_path, hurt, says):
    spread(4)
    spread(6)
    hurt(tmp_path)
    with pytest.warns(UserWarning, match=rf"passing over .*step-00000006: .*{says}") as said:
        assert agreed(tmp_path) == 4
    assert len(said) == 1


def test_two_histories_on_two_disks_are_told_apart(spread, tmp_path):
    spread(5)
    shutil.copytree(tmp_path / "disk1", tmp_path / "kept")
    local(1).run(lambda comm: save(tmp_path / "disk1", 5, comm, [], {"another": "history"}))
    with pytest.raises(ValueError, match="none of the 1"), pytest.warns(UserWarning, match="rank 2 has another checkpoint at"):
        agreed(tmp_path)


def test_there_may_be_none_but_the_path_must_be_right(tmp_path):
    for i in (0, 1):
        (tmp_path / f"disk{i}").mkdir()
    assert agreed(tmp_path) is None
    with pytest.raises(ValueError, match=r"there is nothing at .*typo.disk\d; expected the path of a checkpoint, or of a fol"):
        agreed(tmp_path / "typo")


def test_ranks_of_one_disk_look_at_each_file_once(spread, tmp_path, monkeypatch):
    looked = []
    damage = Checkpoint.damage

    def counting(self, name, **settings):
        looked.append(name)
        return damage(self, name, **settings)

    monkeypatch.setattr(Checkpoint, "damage", counting)
    spread(5)
    assert agreed(tmp_path) == 5
    assert sorted(looked) == [f"rank-0000{i}.safetensors" for i in range(RANKS)]


def test_pruning_keeps_and_removes_the_same_on_every_disk(spread, tmp_path):
    for step in (1, 2, 3, 4):
        spread(step)
    (tmp_path / "disk1" / "step-00000003" / "rank-00002.safetensors").unlink()
    with pytest.warns(UserWarning, match="step-00000003: .*rank-00002"):
        local(RANKS).run(lambda comm: prune(comm, disk(tmp_path, comm), 2, written=4))
    for i in (0, 1):
        left = sorted(path.name for path in (tmp_path / f"disk{i}").iterdir())
        assert left == ["step-00000002", "step-00000003", "step-00000004"]


def test_a_copy_that_cannot_be_written_is_an_error_on_every_rank(spread, tmp_path):
    spread(5)

    def message(comm):
        found = find(comm, disk(tmp_path, comm))
        if comm.rank == 0:
            (found.checkpoint.path / "rank-00003.safetensors.0.partial").mkdir()
        with pytest.raises(OSError, match=r"rank-00003\.safetensors could not be copied from rank 3's disk: rank 0: ") as e:
            found.bring(comm, [] if comm.rank else ["rank-00003.safetensors"])
        return str(e.value)

    assert len(set(local(RANKS).run(message))) == 1
