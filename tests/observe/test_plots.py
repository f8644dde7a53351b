"""Pictures are made of what was recorded; without matplotlib there is a sentence."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from timelines import simulated

from mpitrain.observe.ideal import ideal
from mpitrain.observe.plots import plot_curves, plot_pipeline

LINES = [{"step": i, "loss": 1 / i, "validation_loss": 1.5 / i if i % 50 == 0 else None} for i in range(1, 151)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figure = pytest.importorskip("matplotlib.figure", reason="matplotlib is the extra `plot`").Figure
    saved = []
    save = figure.savefig
    monkeypatch.setattr(figure, "savefig", lambda self, *args, **settings: (saved.append(self), save(self, *args, **settings)))
    return saved


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (8, 8)])
def test_every_action_is_a_box_and_forwards_are_numbered(tmp_path, drawn, ranks, microbatches):
    trace = simulated(ranks, microbatches)
    plot_pipeline(trace, ideal(trace), tmp_path / "p.png", "demo")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    for axes in drawn[0].axes:
        assert len(axes.collections[0].get_paths()) == sum(map(len, trace.spans))
        assert Counter(text.get_text() for text in axes.texts) == {str(i): 2 * ranks for i in range(microbatches)}
        assert [label.get_text() for label in axes.get_yticklabels()] == [str(rank) for rank in range(ranks)]
    upper, lower = drawn[0].axes
    assert upper.get_title(loc="right") == lower.get_title(loc="right").replace("simulated", "measured")
    assert "(s)" in lower.get_xlabel()


def test_boxes_too_narrow_for_a_number_have_none(tmp_path, drawn):
    trace = simulated(2, 300)
    plot_pipeline(trace, ideal(trace), tmp_path / "p.png", "demo")
    assert not drawn[0].axes[0].texts


def test_curves_show_training_and_validation(tmp_path, drawn):
    plot_curves(LINES, tmp_path / "c.png", "demo")
    (axes,) = drawn[0].axes
    every, mean, validation = axes.lines
    assert every.get_ydata() == pytest.approx([line["loss"] for line in LINES])
    assert mean.get_ydata()[75] == pytest.approx(sum(line["loss"] for line in LINES[72:79]) / 7)
    assert list(validation.get_xdata()) == [50, 100, 150]


def test_a_step_without_a_loss_leaves_the_mean_alone(tmp_path, drawn):
    plot_curves([{"step": 0, "loss": None, "validation_loss": None}, *LINES], tmp_path / "c.png", "demo")
    every, mean, _ = drawn[0].axes[0].lines
    assert list(every.get_xdata()) == [line["step"] for line in LINES]
    assert all(mean.get_ydata() > 0)


def test_without_matplotlib_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"plots need matplotlib.*mpitrain\[plot\]"):
        plot_curves(LINES, tmp_path / "c.png", "demo")
