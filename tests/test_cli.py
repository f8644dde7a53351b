"""The command line as a person types it: what works without MPI, and what is said of a mistake before any rank starts."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from mpitrain.cli import main

WITHOUT = """
import sys
for name in ("mpi4py", "cupy", "numba"):
    sys.modules[name] = None  # importing it fails
from mpitrain.cli import main
for line in (["plan", "gpt-stdlib", "--set", "layout.dp=[2,1]"], ["recipes"], ["--help"]):
    try:
        main(line)
    except SystemExit as end:
        assert end.code == 0, end
"""


def test_plan_recipes_and_help_need_no_mpi_no_cupy_and_no_numba():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dp=2+1 x pp=2, 3 ranks; 842,496 parameters; 4 microbatches of 4 samples a pipeline; ")
    assert "\ngpt-stdlib      A byte-level GPT on the source of Python's standard library, two" in done.stdout
    assert "usage: mpitrain [-h] VERB ..." in done.stdout


PLAN = ["plan", "gpt-stdlib"]
MISTAKES = {
    "recipe": (["plan", "gpt-stdlip"], "there is no recipe 'gpt-stdlip'; did you mean 'gpt-stdlib'?"),
    "setting": ([*PLAN, "--set", "layout.tp=2"], "--set layout.tp=2: layout.tp is not a setting; Expected one of dp, pp"),
    "stages": ([*PLAN, "--set", "layout.pp=9"], "9 stages were asked for and the model has 6 layers; expected 1 to 6 stages"),
    "batch": ([*PLAN, "--set", "layout.dp=9"], "the batch has 32 samples for dp=9 x microbatches=4; expected at least one"),
    "contradiction": (
        [*PLAN, "--set", "train.zero=1", "--set", "compression.kind=sign"],
        "zero = 1 and a compression each say how gradients are summed",
    ),
    "vocabulary": ([*PLAN, "--set", "model.vocab=100"], "the vocabulary holds 100 (tokens 0 .. 99): give the model a larger"),
    "features": (
        ["plan", "mlp-digits", "--set", "model.sizes=[32, 10]"],
        "a linear layer of 32 inputs is given 64 (shape (1, 64)); expected as many as there are",
    ),
    "channels": (
        ["plan", "resnet-digits", "--set", "model.channels=3"],
        "a convolution of 3 channels is given images of shape (1, 1, 8, 8); expected (n, 3, h, w)",
    ),
    "sample": (
        ["plan", "mlp-digits", "--set", "sample.prompt=def"],
        "[sample] writes text of a byte a token, and the data's kind is digits; expected one of stdlib, text",
    ),
    "no ranks": (["run", "-n", "0", *PLAN], "0 ranks were asked for; expected at least 1"),
    "no verb": (["run", "-n", "2"], "nothing to run was named"),
    "no such run": (["plot", "tiny"], "there is no run 'tiny'; expected a run's folder, or its name in"),
    "no metrics": (["plot", "."], "there are no metrics in .; expected metrics.jsonl, which a run writes there"),
    "no trace": (["trace", "."], "there is no trace in trace; expected rank-00000.jsonl, which a run writes there"),
    "no pipeline": (["plot", ".", "--pipeline"], "there is no trace in trace; expected rank-00000.jsonl"),
    "half an option": (["plot", ".", "--step", "2"], "--step says which step's pipeline is drawn; add --pipeline, or"),
}


@pytest.mark.parametrize(("line", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_a_sentence(tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(line)
    assert isinstance(end.value.code, str)
    assert end.value.code.startswith("mpitrain: ")
    assert says in end.value.code


def test_a_run_that_ended_before_its_first_step_has_no_picture(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(SystemExit, match=r"the metrics in .* hold no step; a run writes a line after each"):
        main(["plot", str(tmp_path)])


def test_a_layout_that_computes_something_else_is_an_error(monkeypatch):
    monkeypatch.setattr("mpitrain.comm.world", lambda: None)
    monkeypatch.setattr("mpitrain.job.prepare", lambda *given, **settings: None)
    monkeypatch.setattr("mpitrain.job.run", lambda job: 1)
    with pytest.raises(SystemExit, match="mpitrain: this layout computes something else than one rank does: see the self-"):
        main(["train", "gpt-stdlib"])


def test_a_warning_is_a_line(monkeypatch, capsys):
    monkeypatch.setattr("mpitrain.comm.world", lambda: None)
    monkeypatch.setattr("mpitrain.job.prepare", lambda *given, **settings: warnings.warn("passing over step-3", stacklevel=1))
    monkeypatch.setattr("mpitrain.job.run", lambda job: 0)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit):
            main(["train", "gpt-stdlib"])
    assert capsys.readouterr().err == "mpitrain: passing over step-3\n"


@pytest.mark.parametrize("line", [["run", "-n", "2", "trian", "gpt-stdlib"], ["run", "-n", "2", "train"], ["plot"]])
def test_a_line_that_cannot_be_read_shows_the_usage(line, capsys):
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: mpitrain ")
