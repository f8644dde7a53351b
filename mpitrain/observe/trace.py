"""Traces: the actions of some steps with the time each began and ended, written by every rank, read as one.

Invariant: recording changes nothing of a step, and costs a run nothing on the steps that are not recorded; what is read is on
rank 0's clock, a line a step in one file a rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpitrain.bounds import Count, check_fields
from mpitrain.comm import Place
from mpitrain.observe.clock import offset_to_first
from mpitrain.observe.json_lines import JsonLines, read_json_lines
from mpitrain.program import Action, Kind, Measured
from mpitrain.program.replay import Span

#: The rows of a timeline ...
ROWS = ("compute", "send", "receive", "reduce")
#: ... and the kinds of actions that are not computation.
_ROW = {
    Kind.SEND_F: "send",
    Kind.SEND_B: "send",
    Kind.RECV_F: "receive",
    Kind.RECV_B: "receive",
    Kind.ARM: "reduce",
    Kind.REDUCE: "reduce",
    Kind.GATHER: "reduce",
    Kind.FREE: "reduce",
    Kind.TIE: "reduce",
    Kind.TALLY: "reduce",
}


def row_of(action: Action) -> str:
    """The row that `action` stands in."""
    return _ROW.get(action.kind, "compute")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracing:
    """Which steps a run records, and where: step `first`, every `every`-th, and the last."""

    folder: Path
    first: Count = 2
    every: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def due(self, step: int, last: int) -> bool:
        """Whether `step` of a run that ends with step `last` is recorded."""
        return step in (self.first, last) or (self.every is not None and step % self.every == 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTrace:
    """One step of a job."""

    step: int
    #: What each rank did, in order; seconds since the step's first action began, on rank 0's clock.
    spans: list[list[Span]]
    #: The ranks of each pipeline, in the order of its stages.
    pipelines: list[tuple[int, ...]]
    #: Seconds by which the times of two ranks can be wrong against each other.
    error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """The first line of a rank's file."""

    rank: int
    ranks: int
    pipeline: list[int]


class TraceFile:
    """The file of the rank at `place`; what it holds of steps later than `after`, or of another layout, is dropped."""

    def __init__(self, tracing: Tracing, place: Place, *, after: int = 0) -> None:
        self._tracing, self._comm = tracing, place.comm
        path, rank = _path(tracing.folder, place.comm.rank), place.comm.rank
        header = asdict(_Header(rank=rank, ranks=place.comm.size, pipeline=list(place.layout.pipeline(rank))))
        before = read_json_lines(path)
        kept = [line for line in before[1:] if line["step"] <= after] if before[:1] == [header] else []
        self._lines = JsonLines(path, [header, *kept])

    def step(self, step: int, last: int, measured: Sequence[Measured]) -> None:
        """Record `step` of a run up to step `last`, if it is due.  Collective."""
        if not self._tracing.due(step, last):
            return
        offset = offset_to_first(self._comm)
        self._lines.write(
            {
                "step": step,
                "offset": offset.seconds,
                "error": offset.error,
                "actions": " ".join(str(m.action) for m in measured),
                "begin": [round(m.begin, 7) for m in measured],
                "end": [round(m.end, 7) for m in measured],
            }
        )

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def read_trace(folder: Path) -> list[StepTrace]:
    """The recorded steps in `folder`, in order; `ValueError` where there are none, or ranks' files are missing."""
    if not read_json_lines(_path(folder, 0)):
        raise ValueError(f"there is no trace in {folder}; expected {_path(folder, 0).name}, which a run writes there")
    ranks = _Header(**read_json_lines(_path(folder, 0))[0]).ranks
    paths = [_path(folder, rank) for rank in range(ranks)]
    files = [read_json_lines(path) for path in paths]
    missing = [path.name for path, lines in zip(paths, files, strict=True) if not lines]
    if missing:
        raise ValueError(
            f"{folder} holds the traces of {ranks - len(missing)} of {ranks} ranks; copy {', '.join(missing)} there"
        )
    pipelines = sorted({tuple(_Header(**file[0]).pipeline) for file in files})
    by_step = [{line["step"]: line for line in file[1:]} for file in files]
    steps = sorted(set.intersection(*(set(lines) for lines in by_step)))
    if not steps:
        raise ValueError(f"the trace in {folder} holds no whole step; a run records its last step once it has ended")
    return [_step(step, [lines[step] for lines in by_step], pipelines) for step in steps]


def chosen(steps: Sequence[StepTrace], number: int | None) -> StepTrace:
    """The recorded step of that number, by default the last; `ValueError` names those that there are."""
    for found in reversed(steps):
        if number in (None, found.step):
            return found
    recorded = ", ".join(str(found.step) for found in steps)
    raise ValueError(f"step {number} was not recorded; expected one of {recorded}. [trace] every records more")


def _step(step: int, lines: Sequence[dict[str, Any]], pipelines: list[tuple[int, ...]]) -> StepTrace:
    zero = min(line["begin"][0] + line["offset"] for line in lines)
    spans = []
    for rank, line in enumerate(lines):
        shift = line["offset"] - zero
        times = zip(line["actions"].split(), line["begin"], line["end"], strict=True)
        spans.append([Span(rank, Action.parse(text), begin + shift, end + shift) for text, begin, end in times])
    return StepTrace(step=step, spans=spans, pipelines=pipelines, error=2 * max(line["error"] for line in lines))


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.jsonl"
