"""`benchmarks/step.py` runs, and what it writes can be read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_quick_run_against_torch(tmp_path):
    result = tmp_path / "step.json"
    line = [sys.executable, "benchmarks/step.py", "--peer", "torch", "--quick", "--json", str(result)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    rows = {row["side"]: row for row in found["rows"]}
    assert list(rows) == ["mpitrain", "torch"]
    assert found["headline"]["ratio_torch"] == pytest.approx(rows["mpitrain"]["tokens/s"] / rows["torch"]["tokens/s"])
    # Both sides start from the same weights; after eight steps their losses differ by rounding only.
    assert found["headline"]["largest_loss_difference"] < 1e-4
    assert found["command"].startswith("python benchmarks/step.py --peer torch --quick")
    assert found["machine"]["cores"] >= 1
    assert "tokens/s" in done.stdout
    assert "ratio_torch" in done.stdout
