"""Reading under any other layout, and telling what is damaged or another model's."""

import hashlib
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.arrays import BFLOAT16
from mpitrain.checkpoint import Checkpoint, Entry, save
from mpitrain.comm import local
from mpitrain.nn import Parameter
from mpitrain.nn.init import ZEROS


def verify(path, ranks=2):
    local(ranks).run(Checkpoint.open(path).verify)


@st.composite
def cut_tensors(draw):
    """A shape, the boxes of a grid over it, and a box to read."""
    shape = draw(st.lists(st.integers(1, 7), max_size=3))
    grid, wanted = [()], []
    for n in shape:
        cuts = [0, *sorted(draw(st.sets(st.integers(1, n - 1), max_size=3))), n] if n > 1 else [0, n]
        grid = [(*box, side) for box in grid for side in itertools.pairwise(cuts)]
        start = draw(st.integers(0, n))
        wanted.append((start, draw(st.integers(start, n))))
    return tuple(shape), grid, tuple(wanted)


def flip_bit(file):
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 4
    file.write_bytes(raw)


DAMAGES = {
    "flipped": (flip_bit, "SHA-256"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-10]), "bytes, expected"),
    "missing": (lambda file: file.unlink(), "missing"),
}


def parameters(**shapes):
    made = [Parameter(shape, ZEROS) for shape in shapes.values()]
    for name, parameter in zip(shapes, made, strict=True):
        parameter.name = name
    return made


@settings(deadline=None, max_examples=60)
@given(case=cut_tensors(), dtype=st.sampled_from([np.float16, BFLOAT16, np.float32, np.float64, np.int64]))
def test_any_box_is_read_from_any_cut(case, dtype):
    shape, grid, wanted = case
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 251, dtype)  # exact in every dtype

    def part(comm):
        box = grid[comm.rank]
        piece = np.asarray(array[tuple(slice(*side) for side in box)])  # a view that is not contiguous
        return save(Path(folder), 1, comm, [Entry(name="x", array=piece, shape=shape, box=box)], {})

    with tempfile.TemporaryDirectory() as folder:
        path = local(len(grid)).run(part)[0]
        found = Checkpoint.open(path).read("x", wanted)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array[tuple(slice(*side) for side in wanted)])


def test_what_was_written_comes_back_with_its_meta(written):
    path, matrices = written()
    assert path.name == "step-00000007"
    checkpoint = Checkpoint.open(path)
    assert checkpoint.meta == {"model": {"kind": "gpt", "width": 8}, "position": {"epoch": 1, "consumed": 2}}
    assert checkpoint.manifest.step == 7
    verify(path)
    for i, matrix in enumerate(matrices):
        np.testing.assert_array_equal(checkpoint.read(f"w{i}", ((0, 5), (0, 3))), matrix)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["rank-00000.safetensors", "rank-00001.safetensors"])
def test_a_damaged_file_is_named(written, file, damage):
    path, _ = written()
    hurt, said = DAMAGES[damage]
    hurt(path / file)
    with pytest.raises(ValueError, match=said) as caught:
        verify(path)
    assert file in str(caught.value)


def test_every_rank_hears_of_the_damage_that_one_found(written):
    path, _ = written()
    flip_bit(path / "rank-00001.safetensors")

    def message(comm):
        with pytest.raises(ValueError, match=r"rank-00001\.safetensors is damaged") as caught:
            Checkpoint.open(path).verify(comm)
        return str(caught.value)

    assert len(set(local(3).run(message))) == 1


def test_a_file_that_the_disk_no_longer_gives_is_damaged(written, monkeypatch):
    def unreadable(file, algorithm):
        raise OSError(5, "Input/output error")

    path, _ = written()
    monkeypatch.setattr(hashlib, "file_digest", unreadable)
    with pytest.raises(ValueError, match=r"rank-00000\.safetensors cannot be read \(\[Errno 5\] Input/output error\); bring"):
        verify(path)


@pytest.mark.parametrize("damage", [*DAMAGES, "no digest", "another format"])
def test_a_damaged_manifest_is_named(written, damage):
    path, _ = written()
    manifest = path / "manifest.json"
    if damage == "no digest":
        (path / "manifest.sha256").unlink()
    elif damage == "another format":
        text = manifest.read_text().replace('"step"', '"stride"', 1).encode()
        manifest.write_bytes(text)
        (path / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest())
    else:
        DAMAGES[damage][0](manifest)
    with pytest.raises(ValueError, match="manifest"):
        Checkpoint.open(path)


def test_a_checkpoint_of_another_model_is_told_apart(tmp_path):
    box = ((0, 5), (0, 3))
    entries = [Entry(name=name, array=np.zeros((5, 3)), shape=(5, 3), box=box) for name in ("w0", "w1", "exp_avg/w0")]
    path = local(1).run(lambda comm: save(tmp_path, 1, comm, entries, {}))[0]
    checkpoint = Checkpoint.open(path)
    checkpoint.check(parameters(w0=(5, 3), w1=(5, 3)))
    with pytest.raises(ValueError, match="another model") as caught:
        checkpoint.check(parameters(w0=(5, 4), bias=(3,)))
    message = str(caught.value)
    assert "1 missing from it: bias (3,)" in message
    assert "1 in it and not in the model: w1 (5, 3)" in message
    assert "1 of another shape: w0 (5, 3), expected (5, 4)" in message
    with pytest.raises(ValueError, match="holds no 'momentum_buffer/w0'; its optimizer's arrays are exp_avg"):
        checkpoint.read("momentum_buffer/w0", box)
