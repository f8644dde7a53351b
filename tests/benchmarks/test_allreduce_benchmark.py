"""`benchmarks/allreduce.py` runs, and what it writes can be read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIDES = ["mpi", "native", "ring", "halving", "hierarchical", "staged", "chosen", "gloo"]


@pytest.mark.benchmarks
def test_quick_run(tmp_path):
    result = tmp_path / "allreduce.json"
    line = [sys.executable, "benchmarks/allreduce.py", "--quick", "--ranks", "2", "--json", str(result)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    rows = found["rows"]
    assert [row["side"] for row in rows] == SIDES * 18  # 8 B to 1 MiB
    assert all(row["#wrong"] == 0 for row in rows)
    for row in rows:
        assert row["algbw GB/s"] == pytest.approx(row["size"] / row["time us"] / 1e3)
        assert row["busbw GB/s"] == pytest.approx(row["algbw GB/s"])  # 2(p-1)/p is 1
    chosen = [row for row in rows if row["side"] == "chosen"]
    assert all(row["choice"] in SIDES for row in chosen)
    assert found["headline"] == {
        "ratio_mpi_from_1MiB": chosen[-1]["ratio_mpi"],
        "ratio_gloo_from_64KiB": min(row["ratio_gloo"] for row in chosen if row["size"] >= 1 << 16),
    }
