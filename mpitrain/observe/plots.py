"""Pictures of a run: its losses, and the pipeline of one of its steps, measured above simulated.

Invariant: a picture shows what was recorded, with units on its axes, and is written to the file that is named; matplotlib is
needed here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpitrain.observe.trace import StepTrace
from mpitrain.observe.waits import bubble, makespan, over_pipelines
from mpitrain.program import Kind, stages_of
from mpitrain.program.replay import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What each kind is drawn in, what the legend calls it, and whether its boxes carry the number of a microbatch.
_STYLES: Mapping[Kind, tuple[str, str, bool]] = {
    Kind.F: ("#4c78a8", "F: forward", True),
    Kind.B: ("#54a24b", "B: backward", True),
    Kind.I: ("#76b7b2", "I: input gradient", True),
    Kind.W: ("#b279a2", "W: weight gradient", True),
    Kind.RECV_F: ("#e6e6e6", "wait for a message", False),
    Kind.RECV_B: ("#e6e6e6", "wait for a message", False),
    Kind.SEND_F: ("#f2cf5b", "send", False),
    Kind.SEND_B: ("#f2cf5b", "send", False),
    Kind.REDUCE: ("#e45756", "reduce gradients", False),
    Kind.TIE: ("#e45756", "reduce gradients", False),
    Kind.TALLY: ("#9d9d9d", "tally over all ranks", False),
    Kind.STEP: ("#9c755f", "update", False),
}
#: Anything else is bookkeeping of these.
_OTHER = ("#d8b5a5", "other", False)

_WIDTH_IN, _DPI, _FONT_PT = 15.0, 110, 7.5
#: Ranks of a step that are drawn; of a larger job only its first pipeline.
_MOST_ROWS = 16


def plot_pipeline(step: StepTrace, simulated: Sequence[Sequence[Span]], path: Path, title: str) -> None:
    """Draw a step's ranks over time, with `simulated` below on the same axis.  `ValueError` without matplotlib."""
    rows = range(len(step.spans)) if len(step.spans) <= _MOST_ROWS else step.pipelines[0]
    measured = [step.spans[rank] for rank in rows]
    heights = len(measured), len(simulated)
    figure = _figure(_WIDTH_IN, 1.7 + 0.42 * sum(heights))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    scale, unit = (1e3, "ms") if makespan(step.spans) < 10 else (1.0, "s")
    ends = makespan(step.spans) * scale, makespan(simulated) * scale
    upper.set_xlim(0, 1.005 * max(ends))
    upper.set_title(f"{title}, step {step.step}", loc="left", fontsize=11, fontweight="bold")
    bubbles = bubble(over_pipelines(step)), bubble(simulated)
    for axes, spans, what, end, idle in zip(
        (upper, lower), (measured, simulated), ("measured", "simulated"), ends, bubbles, strict=True
    ):
        _draw(axes, spans, scale)
        axes.set_title(f"{what}: {end:.4g} {unit}, bubble {idle:.1%}", loc="right", fontsize=10)
        axes.set_ylabel("rank")
        axes.axvline(ends[1], color="black", linewidth=0.8, linestyle="--")
    upper.set_yticks(range(len(measured)), [str(rank) for rank in rows])
    lower.set_yticks(range(len(simulated)), [str(rank) for rank in step.pipelines[0]])
    stages = "; paler: a rank's later stages" if any(len(_stages(spans)) > 1 for spans in measured) else ""
    lower.set_xlabel(f"time since the step began ({unit}); dashed: where the simulation ends; numbers: microbatches{stages}")
    used = {_style(span)[1]: _style(span)[0] for spans in (*measured, *simulated) for span in spans}
    order = [label for _, label, _ in (*_STYLES.values(), _OTHER)]
    handles = [_patch(used[label], label) for label in sorted(used, key=order.index)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    figure.savefig(path, dpi=_DPI)


def plot_curves(metrics: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw training and validation loss over steps.  `ValueError` without matplotlib."""
    figure = _figure(8.0, 4.8)
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    counted = [line for line in metrics if line["loss"] is not None]  # a skipped step has none
    steps, losses = [line["step"] for line in counted], [line["loss"] for line in counted]
    validation = [(line["step"], line["validation_loss"]) for line in metrics if line["validation_loss"] is not None]
    many = len(losses) > 100
    axes.plot(steps, losses, color="#4c78a8", linewidth=0.8, alpha=0.35 if many else 1.0, label=None if many else "training")
    if many:
        axes.plot(steps, _smooth(losses, len(losses) // 40), color="#4c78a8", linewidth=1.6, label="training (moving mean)")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="#e45756", marker="o", markersize=4, label="validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss (mean over targets)")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.margins(x=0.02)
    figure.savefig(path, dpi=_DPI)


def _figure(width: float, height: float) -> Figure:
    """A figure of inches; it belongs to no window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            f"plots need matplotlib, which cannot be imported ({error}); install the extra mpitrain[plot]"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _patch(color: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=color, edgecolor="white", label=label)


def _draw(axes: Axes, spans: Sequence[Sequence[Span]], scale: float) -> None:
    """One row a rank, the first on top."""
    from matplotlib.collections import PolyCollection

    boxes: list[list[tuple[float, float]]] = []
    colors: list[str] = []
    points = _WIDTH_IN * 72 * 0.93 / (axes.get_xlim()[1] / scale)  # a second, in points of paper
    for row, mine in enumerate(spans):
        chunks = {stage: i for i, stage in enumerate(_stages(mine))}
        for span in mine:
            color, _, numbered = _style(span)
            ink = "white"
            if numbered and chunks[span.action.stage] > 0:
                color, ink = _lighter(color, 0.55 * chunks[span.action.stage] / (len(chunks) - 1)), "#303030"
            width = span.end - span.begin
            left, right = span.begin * scale, span.end * scale
            boxes.append([(left, row - 0.42), (right, row - 0.42), (right, row + 0.42), (left, row + 0.42)])
            colors.append(color)
            text = str(span.action.microbatch)
            if numbered and width * points > 0.62 * _FONT_PT * len(text) + 2:
                axes.text((left + right) / 2, row, text, ha="center", va="center_baseline", fontsize=_FONT_PT, color=ink)
    axes.add_collection(PolyCollection(boxes, facecolors=colors, edgecolors="white", linewidths=0.4))
    axes.set_ylim(len(spans) - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


def _stages(spans: Sequence[Span]) -> list[int]:
    return stages_of([span.action for span in spans])


def _style(span: Span) -> tuple[str, str, bool]:
    return _STYLES.get(span.action.kind, _OTHER)


def _lighter(color: str, share: float) -> str:
    """`color` with that share of white."""
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def _smooth(values: Sequence[float], reach: int) -> np.ndarray:
    """The mean of each value and up to `reach` on either side of it, as many on both."""
    upto = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    half = np.minimum(reach, np.minimum(at, at[::-1]))
    return (upto[at + half + 1] - upto[at - half]) / (2 * half + 1)
