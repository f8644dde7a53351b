"""Lines for a file, a bar for a terminal."""

import io

import pytest

from mpitrain.observe.progress import Progress
from mpitrain.observe.report import StepReport


def report(step, steps=200, **changes):
    values = {
        "step": step,
        "steps": steps,
        "loss": 5.43214,
        "validation_loss": None,
        "grad_norm": 1.23456,
        "learning_rate": 3e-4,
        "targets_per_s": 12345.6,
        "memory_bytes": 300 << 20,
        "seconds_left": 83.4,
    }
    return StepReport(**values | changes)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_aligned_under_their_names():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.step(report(1))
    progress.step(report(10, validation_loss=2.5))
    progress.close()
    names, *lines = stream.getvalue().splitlines()
    assert names.split() == ["step", "loss", "val", "loss", "grad", "norm", "lr", "tokens/s", "memory", "left"]
    assert lines[0].split() == ["1/200", "5.4321", "-", "1.23", "3.00e-04", "12,346", "300", "MiB", "0:01:23"]
    assert lines[1].split()[2] == "2.5000"
    for line in lines:
        assert len(line) == len(names)


def test_bytes_have_a_column_where_they_are_counted():
    stream = io.StringIO()
    Progress(stream).step(report(1, sent_bytes=4472))
    names, line = stream.getvalue().splitlines()
    assert "sent" in names.split()
    assert "4.4 KiB" in line


def test_accuracies_have_a_column_where_there_are_classes():
    stream = io.StringIO()
    progress = Progress(stream, accuracy=True)
    progress.step(report(1))
    progress.step(report(10, validation_loss=2.5, validation_accuracy=0.98765))
    names, *lines = stream.getvalue().splitlines()
    assert "val loss    val acc" in names
    assert [line.split()[3] for line in lines] == ["-", "98.77%"]


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [(None, 100, [1, *range(5, 101, 5)]), (None, 7, list(range(1, 8))), (40, 100, [1, 40, 80, 100])],
)
def test_how_often_a_line_comes(every, steps, expected):
    stream = io.StringIO()
    progress = Progress(stream, every=every, unit="samples")
    for step in range(1, steps + 1):
        progress.step(report(step, steps))
    names, *lines = stream.getvalue().splitlines()
    assert "samples/s" in names
    assert [int(line.split("/")[0]) for line in lines] == expected


def test_a_validation_always_has_a_line():
    stream = io.StringIO()
    progress = Progress(stream, every=1000)
    for step in range(1, 8):
        progress.step(report(step, validation_loss=3.0 if step == 5 else None))
    assert [line.split("/")[0].strip() for line in stream.getvalue().splitlines()[1:]] == ["1", "5"]


def test_a_terminal_gets_a_bar_that_remembers_the_last_validation_loss():
    stream = Terminal()
    progress = Progress(stream)
    for step in range(41, 61):  # a resumed job
        progress.step(report(step, 60, validation_loss=2.25 if step == 50 else None))
    progress.close()
    last = stream.getvalue().rstrip().split("\r")[-1]
    assert "60/60" in last
    assert "loss 5.4321" in last
    assert "val loss 2.2500" in last
    assert "12,346" in last
