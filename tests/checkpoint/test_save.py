"""Writing: whole or not at all, also where a rank cannot."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from mpitrain.checkpoint import Checkpoint, Entry, disk, save
from mpitrain.comm import local


def vector(name, length):
    return Entry(name=name, array=np.ones(length), shape=(length,), box=((0, length),))


def test_the_files_are_plain_safetensors_and_json(written):
    path, matrices = written()
    with safe_open(path / "rank-00001.safetensors", framework="pt") as file:
        np.testing.assert_array_equal(file.get_tensor("w1").numpy(), matrices[1])
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["tensors"]["w1"]["parts"] == [{"file": "rank-00001.safetensors", "box": [[0, 5], [0, 3]]}]
    digest = hashlib.sha256((path / "rank-00001.safetensors").read_bytes()).hexdigest()
    assert manifest["files"]["rank-00001.safetensors"]["sha256"] == digest


def test_a_rank_may_have_nothing_to_write(tmp_path):
    entries = {0: [vector("x", 3)], 1: []}
    path = local(2).run(lambda comm: save(tmp_path / "new" / "folders", 1, comm, entries[comm.rank], {}))[0]
    local(2).run(Checkpoint.open(path).verify)
    np.testing.assert_array_equal(Checkpoint.open(path).read("x", ((1, 3),)), np.ones(2))


def test_a_checkpoint_of_the_same_step_is_replaced(written, tmp_path):
    written(seed=0)
    (tmp_path / "step-00000007.partial").mkdir()  # left behind by a job that died while it saved
    (tmp_path / "step-00000007.partial" / "rank-00009.safetensors").touch()
    path, matrices = written(ranks=3, seed=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007"]
    assert len(list(path.glob("rank-*"))) == 3
    np.testing.assert_array_equal(Checkpoint.open(path).read("w0", ((0, 5), (0, 3))), matrices[0])


def test_a_tensor_of_which_a_part_is_missing_or_twice_is_our_mistake(tmp_path):
    half = Entry(name="x", array=np.ones(2), shape=(4,), box=((0, 2),))
    with pytest.raises(AssertionError, match="parts missing or written twice"):
        local(1).run(lambda comm: save(tmp_path, 1, comm, [half], {}))


def test_one_ranks_full_disk_stops_all_and_leaves_nothing(tmp_path, monkeypatch):
    original = disk.save_file

    def full(arrays, file, metadata):
        if file.name == "rank-00001.safetensors":
            raise OSError(28, "No space left on device")
        original(arrays, file, metadata)

    monkeypatch.setattr(disk, "save_file", full)

    def message(comm):
        with pytest.raises(OSError, match=r"rank 1: OSError: \[Errno 28\] No space left on device") as caught:
            save(tmp_path, 1, comm, [vector(f"w{comm.rank}", 3)], {})
        return str(caught.value)

    assert len(set(local(3).run(message))) == 1
    assert list(tmp_path.iterdir()) == []


#: Two ranks write where no file may be longer than 100,000 bytes, of which only rank 1 has more.
LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from mpitrain.checkpoint import Entry, save
from mpitrain.comm import local

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

def message(comm):
    length = (10, 100_000)[comm.rank]
    entry = Entry(name=f"w{comm.rank}", array=np.ones(length), shape=(length,), box=((0, length),))
    try:
        save(Path(sys.argv[1]), 1, comm, [entry], {})
    except OSError as error:
        return error

print(*local(2).run(message), sep="\\n")
"""


def test_a_write_that_really_fails_is_an_oserror_on_all_ranks(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    first, second = done.stdout.splitlines()
    assert first == second
    assert "rank 1: SafetensorError" in first
    assert "File too large" in first
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_stops_all(tmp_path):
    (tmp_path / "file").touch()

    def message(comm):
        with pytest.raises(OSError, match="rank 0: FileExistsError") as caught:
            save(tmp_path / "file", 1, comm, [], {})
        return str(caught.value)

    assert len(set(local(2).run(message))) == 1
