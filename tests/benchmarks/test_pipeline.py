"""The pipeline benchmarks run, cover every schedule and side, and what they compare is the same on all sides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpitrain.program import SCHEDULES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name, tmp_path, *options):
    found = tmp_path / "found.json"
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--quick", *options, "--json", found]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(found.read_text())


@pytest.mark.benchmarks
def test_every_schedule_takes_at_least_its_ideal_on_both_sides(tmp_path):
    found = run("pipeline", tmp_path, "--peer", "torch")
    assert [row["schedule"] for row in found["rows"]] == [*SCHEDULES, "automatic"]
    for row in found["rows"]:
        # nothing sleeps shorter than asked, so a side that is faster has not slept what the ideal assumes
        assert row["ours/ideal"] > 1
    for row in found["rows"][:-1]:
        # torch's zero-bubble orders are not ours, and may be better: none can beat the sleeps of one rank, 4 x 5 ms
        assert row["torch ms"] > 20
        assert row["mpi/ideal"] > 1
    names = ("over_ideal_p2", "mpi_over_ideal_p2", "over_torch")
    assert found["headline"].keys() == {f"{which}_{name}" for which in ("worst", "median") for name in names}


def test_peak_activations_are_the_closed_forms(tmp_path):
    found = run("pipeline_memory", tmp_path)
    assert [row["schedule"] for row in found["rows"]] == list(SCHEDULES)
    # bytes of whole arrays, counted as they are freed
    assert found["headline"]["worst_relative_error"] == 0


def test_an_activation_that_lives_too_long_shows(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import pipeline_memory

    kept = []
    forward = pipeline_memory.Keeping.forward

    def leaking(self, x, weight):
        y = forward(self, x, weight)
        kept.append(self.kept)
        return y

    monkeypatch.setattr(pipeline_memory.Keeping, "forward", leaking)
    with pytest.raises(AssertionError, match="still holds"):
        pipeline_memory.peaks("1f1b", 2, 4)


def test_pipelines_and_replicas_train_the_same_model_as_torch(tmp_path):
    found = run("pipeline_step", tmp_path, "--peer", "torch")
    assert [row["side"] for row in found["rows"]] == ["pp=2 1f1b", "pp=2 zb_h1", "dp=2", "torch 1f1b"]
    # float32 losses of about 5: their spacing is 5e-7, and the steps' rounding adds a few of these
    assert found["headline"]["largest_loss_difference"] < 1e-5
    assert found["headline"]["ratio_torch"] > 0
