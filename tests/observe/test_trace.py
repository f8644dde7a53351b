"""What a run records is what its ranks did, in files that say what is missing; from the run to the picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.comm import Layout, Mesh, local
from mpitrain.observe import TraceFile, Tracing, read_trace
from mpitrain.observe.ideal import ideal
from mpitrain.observe.trace import chosen, row_of
from mpitrain.program import Action, Measured


def trainer(dp=1, pp=2, schedule="1f1b"):
    random = np.random.default_rng(0)
    data = mt.data.ArrayDataset(random.normal(size=(40, 4)), random.integers(0, 3, 40))
    mesh = Mesh(local(dp * pp), Layout(dp=dp, pp=pp))
    model = mt.nn.models.MLP(sizes=(4, 8, 8, 3))
    return mt.Trainer(model, mt.optim.SGD(lr=0.1), data, mesh=mesh, schedule=schedule, batch=8, microbatches=4, arrays="numpy")


@pytest.mark.parametrize(
    ("settings", "recorded"), [({}, [2, 7]), ({"first": 3}, [3, 7]), ({"every": 3}, [2, 3, 6, 7]), ({"first": 9}, [7])]
)
def test_which_steps_are_recorded(tmp_path, settings, recorded):
    tracing = Tracing(folder=tmp_path, **settings)
    assert [step for step in range(1, 8) if tracing.due(step, 7)] == recorded


@pytest.mark.parametrize("schedule", ["1f1b", "automatic"])
def test_the_trace_is_what_every_rank_did(tmp_path, schedule):
    job = trainer(dp=2, pp=2, schedule=schedule)
    job.fit(3, report=lambda step: None, trace=Tracing(folder=tmp_path))
    first, last = read_trace(tmp_path)
    assert (first.step, last.step) == (2, 3)
    assert last.pipelines == [(0, 2), (1, 3)]
    clock = None
    for rank, worker in job.workers.items():
        assert [span.action for span in last.spans[rank]] == worker.training
        assert [span.rank for span in last.spans[rank]] == [rank] * len(worker.training)
        assert [s.end - s.begin for s in last.spans[rank]] == pytest.approx(
            [m.end - m.begin for m in worker.measured], abs=1e-6
        )
        # One process, one clock: ranks stand to each other as they were measured, as far as is claimed.
        zero = worker.measured[0].begin - last.spans[rank][0].begin
        clock = zero if clock is None else clock
        assert abs(zero - clock) <= last.error + 1e-6
    assert min(span.begin for spans in last.spans for span in spans) == 0.0
    # What is drawn below it is the same program, whatever found it.
    assert [[span.action for span in rank] for rank in ideal(last)] == [job.workers[rank].training for rank in (0, 2)]


def test_a_job_that_goes_on_keeps_what_came_before_and_another_layout_does_not(tmp_path):
    settings = {"report": lambda step: None, "folder": tmp_path / "saved", "trace": Tracing(folder=tmp_path / "trace", every=1)}
    trainer().fit(3, **settings)
    again = trainer()
    again.resume(tmp_path / "saved" / "step-00000003")
    again.fit(2, **settings)
    assert [step.step for step in read_trace(tmp_path / "trace")] == [1, 2, 3, 4, 5]
    back = trainer()
    back.fit(1, **settings | {"folder": tmp_path / "other"})
    assert [step.step for step in read_trace(tmp_path / "trace")] == [1]
    other = trainer(pp=1)
    assert other.resume(tmp_path / "other") is not None
    other.fit(1, **settings)
    (only,) = read_trace(tmp_path / "trace")
    assert (only.step, len(only.spans)) == (2, 1)


def record(folder, ranks=3, steps=(2, 4)):
    def run(comm):
        place = Mesh(world, Layout(pp=ranks)).place(comm)
        file = TraceFile(Tracing(folder=folder, every=1), place)
        for step in steps:
            file.step(step, 9, [Measured(Action.parse(f"{comm.rank}F0"), 5.0, 6.0)])
        file.close()

    world = local(ranks)
    world.run(run)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no trace in .*; expected rank-00000.jsonl"):
        read_trace(tmp_path)
    record(tmp_path)
    assert [step.step for step in read_trace(tmp_path)] == [2, 4]
    with pytest.raises(ValueError, match=r"step 3 was not recorded; expected one of 2, 4\."):
        chosen(read_trace(tmp_path), 3)
    assert [chosen(read_trace(tmp_path), number).step for number in (None, 2)] == [4, 2]
    for lose in (lambda file: file.write_text(""), Path.unlink):  # a rank may have died before its first line
        lose(tmp_path / "rank-00001.jsonl")
        with pytest.raises(ValueError, match=r"holds the traces of 2 of 3 ranks; copy rank-00001.jsonl there"):
            read_trace(tmp_path)


def test_a_step_that_a_rank_died_in_is_left_out(tmp_path):
    record(tmp_path)
    file = tmp_path / "rank-00002.jsonl"
    file.write_text(file.read_text()[:-20])
    assert [step.step for step in read_trace(tmp_path)] == [2]
    record(tmp_path, steps=())
    with pytest.raises(ValueError, match="holds no whole step"):
        read_trace(tmp_path)


def test_rows():
    rows = {text: row_of(Action.parse(text)) for text in ("0F0", "0W0", "0SEND_B0", "0RECV_F0", "0REDUCE", "0TALLY", "0STEP")}
    assert list(rows.values()) == ["compute", "compute", "send", "receive", "reduce", "reduce", "compute"]


RECIPE = """
[run]
steps = 3
[layout]
pp = 2
[model]
kind = "mlp"
sizes = [64, 16, 16, 10]
[data]
kind = "digits"
images = "flat"
[train]
batch = 16
microbatches = 4
[optimizer]
kind = "sgd"
lr = 0.1
"""


def test_from_a_run_to_its_pictures(tmp_path):
    """`mpitrain run -n 2 train`, then `trace` and `plot`, as a person types them."""
    pytest.importorskip("sklearn", reason="the extra `data`")
    pytest.importorskip("matplotlib", reason="the extra `plot`")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def mpitrain(*words):
        command = [sys.executable, "-m", "mpitrain", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
        return done.returncode, done.stdout, done.stderr

    code, out, err = mpitrain("run", "-n", "2", "train", "tiny.toml")
    assert code == 0, err
    assert "a step's time: compute " in out
    code, out, err = mpitrain("trace", "tiny", "-o", "trace.json")
    assert (code, out) == (0, "steps 2, 3 in trace.json; open it in https://ui.perfetto.dev\n"), err
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events} >= {"0F0", "1F3", "0SEND_F3", "1RECV_F0", "0TALLY", "1STEP"}
    assert {event["pid"] for event in events} == {0, 1}
    code, out, err = mpitrain("plot", "runs/tiny", "--pipeline", "--step", "2")
    assert code == 0, err
    assert out.startswith("step 2: ")
    assert "bubble measured " in out
    assert out.count(" waited ") == 3
    code, out, err = mpitrain("plot", "tiny")
    assert code == 0, err
    for picture in ("pipeline-00000002.png", "curves.png"):
        assert (tmp_path / "runs" / "tiny" / picture).stat().st_size > 5000
    code, out, err = mpitrain("plot", "tine")
    assert (code, out) == (1, "")
    assert "there is no run 'tine'; expected a run's folder, or its name in" in err
