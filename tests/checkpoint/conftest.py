"""What the tests of checkpoints share: a small one, written by several ranks."""

import numpy as np
import pytest

from mpitrain.checkpoint import Entry, save
from mpitrain.comm import local

META = {"model": {"kind": "gpt", "width": 8}, "position": {"epoch": 1, "consumed": 2}}


@pytest.fixture
def written(tmp_path):
    """A function that writes, in `tmp_path`, a checkpoint whose rank r holds the matrix `w<r>`: its path and the matrices."""

    def write(step=7, *, ranks=2, seed=0):
        rng = np.random.default_rng(seed)
        matrices = [rng.standard_normal((5, 3)) for _ in range(ranks)]

        def part(comm):
            entry = Entry(name=f"w{comm.rank}", array=matrices[comm.rank], shape=(5, 3), box=((0, 5), (0, 3)))
            return save(tmp_path, step, comm, [entry], META)

        paths = local(ranks).run(part)
        assert len(set(paths)) == 1
        return paths[0], matrices

    return write
