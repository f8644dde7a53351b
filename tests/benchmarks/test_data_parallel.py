"""The comparison with torch runs, trains the same model on both sides, and says how often it was faster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_both_sides_train_the_same_models(tmp_path):
    options = ["--peer", "torch", "--quick", "--ranks", "2", "--json", tmp_path / "found.json"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "data_parallel.py", *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for model in ("gpt", "mlp"):
        assert found["headline"][f"ratio_torch_{model}"] > 0
        # float32 losses of about 5 after nine steps: their spacing is 5e-7, and the steps' rounding adds a few of these
        assert found["headline"][f"largest_loss_difference_{model}"] < 1e-5
        assert [row["side"] for row in found["rows"] if row["model"] == model][:2] == ["mpitrain", "torch"]


@pytest.mark.mpi(3, local=True)
def test_only_the_side_whose_turn_it_is_runs(comm, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from turns import Side, take_turns

    log = []

    def side(name, ranks):
        group = comm.group(range(ranks) if comm.rank < ranks else range(ranks, 3))
        inside = comm.rank < ranks
        return Side(name=name, comm=group if inside else None, run=lambda steps: log.append(name) or [0.0] * steps)

    sides = [side("a", 3), side("b", 1)]
    take_turns(comm, sides, warm=1, rounds=3, steps=2)
    assert log == (["a", "b", "b", "a", "a", "b", "b", "a"] if comm.rank == 0 else ["a"] * 4)
    assert [len(s.seconds) for s in sides] == [3, 3]
    everyone = comm.allgather(np.array([s.seconds for s in sides]))
    assert (everyone == everyone[0]).all()


def test_the_interval_holds_the_median_as_often_as_it_says(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from turns import interval

    random = np.random.default_rng(1)
    intervals = [interval(random.exponential(size=25), draws=400) for _ in range(400)]
    covered = np.mean([low <= np.log(2) <= high for low, high in intervals])
    # 95 % is what the bootstrap aims at; with 25 values it reaches 92 to 97 %, and 400 trials have a standard error of 1.1 %
    assert 0.89 < covered < 0.99
