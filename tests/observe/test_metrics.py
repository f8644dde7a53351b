"""One line a step, whatever happened to the job."""

import json
import math

import pytest

from mpitrain.observe.metrics import MetricsFile, read_metrics
from mpitrain.observe.report import StepReport


def report(step, loss=1.5):
    return StepReport(
        step=step,
        steps=9,
        loss=loss,
        validation_loss=None,
        grad_norm=1.0,
        learning_rate=0.1,
        targets_per_s=2.0,
        memory_bytes=3,
        seconds_left=4.0,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "metrics.jsonl"


def test_each_step_is_a_json_object_on_disk_at_once(path):
    metrics = MetricsFile(path)
    metrics.step(report(1))
    metrics.step(report(2))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0] | {"step": 2} == lines[1]
    assert lines[0]["validation_loss"] is None
    assert lines[0]["loss"] == 1.5
    metrics.close()


def test_a_resumed_job_goes_on_after_the_step_that_it_resumed_from(path):
    first = MetricsFile(path)
    for step in range(1, 6):
        first.step(report(step))
    first.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # it died here
    second = MetricsFile(path, after=3)
    second.step(report(4, loss=7.0))
    second.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 1.5), (2, 1.5), (3, 1.5), (4, 7.0)]


def test_a_new_job_starts_anew(path):
    for loss in (1.0, 2.0):
        metrics = MetricsFile(path)
        metrics.step(report(1, loss))
        metrics.close()
    assert [line["loss"] for line in read_metrics(path)] == [2.0]


def no_constant(name):
    raise ValueError(f"{name} is no JSON")


def test_a_loss_that_is_no_number_is_null(path):
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 1, "loss": NaN}\n')  # as it was written before
    metrics = MetricsFile(path, after=1)
    metrics.step(report(2, math.nan))
    metrics.close()
    lines = [json.loads(line, parse_constant=no_constant) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, None), (2, None)]
    assert [line["loss"] for line in read_metrics(path)] == [None, None]
