"""What a person sees while a job trains: a line now and then, or a bar where the stream is a terminal.

Invariant: it is told everything and measures nothing, so it belongs to one rank and no other waits for it.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TextIO

from tqdm import tqdm

from mpitrain.observe.report import StepReport


class Progress:
    """Shows reports on `stream`, standard output by default.

    Without a `bar` (by default where the stream is no terminal), a line is written every `every` steps (by default about twenty
    in all), for each validation and for the last step.  `unit` says what a target is, and
    `accuracy` that validations come with one.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        bar: bool | None = None,
        every: int | None = None,
        unit: str = "tokens",
        accuracy: bool = False,
    ) -> None:
        self.stream = stream or sys.stdout
        self.bar = self.stream.isatty() if bar is None else bar
        self.every = every
        self.unit = unit
        self.accuracy = accuracy
        self._bar: tqdm | None = None
        self._begun = False
        self._validation: dict[str, str] = {}

    def step(self, report: StepReport) -> None:
        """Show that a step is done."""
        if report.skipped:
            tqdm.write(f"step {report.step} is skipped: none of its targets is counted, all are ignored", file=self.stream)
        if self.bar:
            self._move_bar(report)
        elif self._is_due(report):
            self._write_line(report)
        self._begun = True

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _is_due(self, report: StepReport) -> bool:
        every = self.every or max(1, report.steps // 20)
        milestone = report.validation_loss is not None or report.step == report.steps
        return milestone or not self._begun or report.step % every == 0

    def _write_line(self, report: StepReport) -> None:
        cells = self._cells(report)
        if not self._begun:
            print(*(name.rjust(_WIDTH) for name in cells), file=self.stream)
        print(*(value.rjust(_WIDTH) for value in cells.values()), file=self.stream, flush=True)

    def _move_bar(self, report: StepReport) -> None:
        if self._bar is None:
            self._bar = tqdm(total=report.steps, initial=report.step - 1, file=self.stream, unit="step", dynamic_ncols=True)
        cells = self._cells(report)
        if report.validation_loss is not None:
            self._validation = {name: value for name, value in cells.items() if name.startswith("val")}
        shown = {name: value for name, value in cells.items() if name not in ("step", "left")} | self._validation
        self._bar.set_postfix_str(", ".join(f"{name} {value}" for name, value in shown.items()), refresh=False)
        self._bar.update()

    def _cells(self, report: StepReport) -> dict[str, str]:
        """The columns of a report, each with its name."""
        accuracy = "-" if report.validation_accuracy is None else f"{report.validation_accuracy:.2%}"
        return {
            "step": f"{report.step}/{report.steps}",
            "loss": f"{report.loss:.4f}",
            "val loss": "-" if report.validation_loss is None else f"{report.validation_loss:.4f}",
            **({"val acc": accuracy} if self.accuracy else {}),
            "grad norm": f"{report.grad_norm:.3g}",
            "lr": f"{report.learning_rate:.2e}",
            f"{self.unit}/s": f"{report.targets_per_s:,.0f}",
            **({} if report.sent_bytes is None else {"sent": f"{report.sent_bytes / 2**10:,.1f} KiB"}),
            "memory": f"{report.memory_bytes / 2**20:,.0f} MiB",
            "left": str(timedelta(seconds=round(report.seconds_left))),
        }


_WIDTH = 10
