"""The scaling benchmark measures every size of a job, draws them, and computes efficiency as its docstring says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

START = "import sys, mpitrain.comm; sys.exit(mpitrain.comm.launch(2, sys.argv[1:]))"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.benchmarks
def test_a_job_of_two_ranks_is_measured_and_drawn(tmp_path):
    json_path, png_path = tmp_path / "scaling.json", tmp_path / "scaling.png"
    options = ["--quick", "--model", "mlp", "--json", json_path, "--png", png_path]
    script = [sys.executable, "-c", START, BENCHMARKS / "scaling.py", *options]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(json_path.read_text())
    assert [(row["curve"], row["ranks"]) for row in found["rows"]] == [("weak", 1), ("weak", 2), ("strong", 1), ("strong", 2)]
    assert [row["efficiency"] for row in found["rows"] if row["ranks"] == 1] == [1.0, 1.0]
    assert found["headline"]["ranks"] == 2
    assert png_path.read_bytes().startswith(b"\x89PNG")


def test_efficiency_is_throughput_a_rank_over_that_of_the_smallest_size():
    from scaling import sides_efficiency
    from turns import Side

    def sides(times):
        return {n: Side(name="", comm=None, run=None, seconds=seconds) for n, seconds in times.items()}

    # four times the work in 1.25 times the time; the second round is slow for both
    weak = sides_efficiency("weak", sides({1: [1.0, 2.0, 1.0], 4: [1.25, 2.5, 1.25]}))
    assert weak == {1: (1.0, 1.0, 1.0), 4: (0.8, 0.8, 0.8)}
    # the same work in a third of the time, by four
    strong = sides_efficiency("strong", sides({1: [3.0, 3.0], 4: [1.0, 1.0]}))
    assert strong[4] == pytest.approx((0.75, 0.75, 0.75))


def test_sizes_are_powers_of_two_and_all_unless_said_otherwise():
    from scaling import chosen_sizes

    assert chosen_sizes(8, None) == [1, 2, 4, 8]
    assert chosen_sizes(6, None) == [1, 2, 6]
    assert chosen_sizes(16, [4, 16]) == [4, 16]
    with pytest.raises(ValueError, match="size 3 does not divide 8"):
        chosen_sizes(8, [3, 8])
    with pytest.raises(ValueError, match="do not fit this job of 2 ranks"):
        chosen_sizes(2, [4])
