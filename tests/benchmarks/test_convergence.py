"""`benchmarks/convergence.py` runs, and what it writes can be read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.benchmarks
def test_quick_run(tmp_path):
    result = tmp_path / "convergence.json"
    line = [sys.executable, "benchmarks/convergence.py", "--quick", "--json", str(result)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    rows = {(row["job"], row["method"]): row for row in found["rows"]}
    assert {job for job, _ in rows} == {"mlp-digits", "gpt", "gpt-adamw"}
    for job in ("mlp-digits", "gpt"):
        whole = rows[job, "none"]["KiB/step"]
        assert rows[job, "bfloat16"]["KiB/step"] == pytest.approx(whole / 2, rel=0.01)
        assert all(rows[key]["KiB/step"] < whole for key in rows if key[0] == job and key[1] != "none")
        # five steps in which what travels is rounded to 8 bits
        assert rows[job, "bfloat16"]["loss"] == pytest.approx(rows[job, "none"]["loss"], rel=0.01)
    gain = rows["gpt-adamw", "top-k 1%, no feedback"]["loss"] / rows["gpt-adamw", "top-k 1%"]["loss"]
    assert found["headline"]["topk_ef_gain_adamw"] == pytest.approx(gain)
    assert found["command"].startswith("python benchmarks/convergence.py --quick")
    assert result.with_suffix(".png").stat().st_size > 0
