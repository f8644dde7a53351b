"""A job from its configuration: where it writes, what it goes on from, what it writes and checks at its end."""

from __future__ import annotations

import pytest

import mpitrain as mt
from mpitrain.config import load
from mpitrain.job import prepare, run

TEXT = """\
[run]
steps = 3
[model]
kind = "gpt"
width = 8
depth = 1
heads = 1
vocab = 300
context = 8
[data]
kind = "text"
files = ["tiny.toml"]
validation = ["tiny.toml"]
context = 8
[train]
batch = 4
[validation]
batches = 1
[optimizer]
kind = "sgd"
lr = 0.1
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Prepares the job of TEXT with overrides, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TEXT)

    def make(*overrides, resume="never", ranks=1):
        return prepare(load("tiny.toml", overrides), mt.comm.local(ranks), resume, arrays="numpy")

    return make


def steps(folder):
    return [line["step"] for line in mt.observe.read_metrics(folder / "metrics.jsonl")]


def test_no_run_writes_into_the_history_of_another(job, tmp_path, capsys):
    assert run(job()) == 0
    assert run(job()) == 0  # afresh
    first, second, third = (tmp_path / "runs" / name for name in ("tiny", "tiny-2", "tiny-3"))
    assert run(job("run.steps=5", resume="auto")) == 0
    assert (steps(first), steps(second)) == ([1, 2, 3], [1, 2, 3, 4, 5])
    assert "going on from runs/tiny-2/step-00000003, in runs/tiny-2" in capsys.readouterr().out
    assert run(job("run.steps=4", resume="runs/tiny/step-00000003")) == 0  # another way on, from before
    assert (steps(first), steps(second), steps(third)) == ([1, 2, 3], [1, 2, 3, 4, 5], [4])
    assert sorted(path.name for path in second.glob("step-*")) == ["step-00000003", "step-00000005"]


def test_a_folder_that_cannot_be_made_is_known_before_anything_is_built(job, monkeypatch):
    monkeypatch.setattr("mpitrain.job.Trainer", None)
    with pytest.raises(ValueError, match=r"the folder tiny\.toml/x cannot be written .*choose another, in a configuration by"):
        job("run.folder=tiny.toml/x")


def test_a_job_that_cannot_be_built_leaves_no_folder(job, tmp_path):
    with pytest.raises(ValueError, match="there is nothing at latest"):
        job(resume="latest")
    with pytest.raises(ValueError, match="the vocabulary holds 5"):
        job("model.vocab=5")
    assert list((tmp_path / "runs").iterdir()) == []


def test_two_jobs_do_not_write_into_one_folder(job):
    first, second = job(), job()
    assert [first.folder.name, second.folder.name] == ["tiny", "tiny-2"]
    with pytest.raises(ValueError, match="tiny-2 belongs to another job"):
        job(resume="auto")


def test_a_run_that_is_over_says_so_and_claims_no_checkpoint(job, capsys):
    run(job())
    assert "checkpoint in runs/tiny/step-00000003\n" in capsys.readouterr().out
    run(job(resume="auto"))
    out = capsys.readouterr().out
    assert "nothing left to train\n" in out
    assert "checkpoint in" not in out


def test_what_there_is_not_cannot_be_gone_on_from(job, tmp_path):
    assert job(resume="auto").resumed is None
    with pytest.raises(ValueError, match="there is nothing at latest; expected the path of a checkpoint, or of a folder with"):
        job(resume="latest")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="--resume empty: there is no checkpoint in it; expected auto, never, or the path"):
        job(resume="empty")


def test_a_token_that_is_no_byte_does_not_end_a_run(job, capsys):
    """Of 300 tokens that an untrained model takes for equally likely, 40 draws hit one above 255 but for one time in 500."""
    assert run(job("sample.prompt=def", "sample.tokens=40", "sample.temperature=100")) == 0
    said = capsys.readouterr().out.partition("--- sample\n")[2]
    assert said.startswith("def")
    assert "\N{REPLACEMENT CHARACTER}" in said


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_check_at_the_end_knows_every_dtype(job, dtype, capsys):
    assert run(job(f"run.dtype={dtype}", "layout.dp=2", "layout.pp=2", "train.microbatches=2", ranks=4)) == 0
    assert "self-check: loss and " in capsys.readouterr().out


def test_a_check_that_fails_is_the_exit_code(job, capsys):
    prepared = job("layout.dp=2", ranks=2)
    prepared.trainer.workers[1].holding.owned[0].data *= 1.5  # a replica whose weights have drifted
    assert run(prepared) == 1
    assert "under dp=2 x pp=1 DIFFER from those of one rank" in capsys.readouterr().out
