"""`Ranks`: the ranks of one mpiexec, which run one test after another as the process that runs the suite asks.

Invariant: a test begins once the one before it has passed, or was skipped, on every rank.  After anything else the ranks are
ended, and a report holds what each of them wrote, with the stacks of those that were stuck.  No process is left behind, and
nothing here loads MPI.  The other end is `mpi_rank`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from mpitrain.comm.failure import REPORT_VARIABLE
from mpitrain.comm.launch import Launcher, command, settings

#: What ranks may take on a busy machine to start, or to import a test; to end; to fail after one that failed; to show a stack.
_START_S, _END_S, _GRACE_S, _STACK_S = 90.0, 60.0, 2.0, 20.0

_VERDICTS = ("passed", "failed", "skipped: ")


class RanksFailedError(Exception):
    """Its text is the report."""


class Ranks:
    """`number` ranks, started in the folder `root`; `nodeid` is the first test that they will run."""

    def __init__(self, launcher: Launcher, number: int, nodeid: str, root: Path) -> None:
        self.number = number
        self._files = tempfile.TemporaryDirectory(prefix="mpi-test-", ignore_cleanup_errors=True)
        self._folder = self._logs = Path(self._files.name)
        self._tests = 0
        self._heard: list[list[str]] = [[] for _ in range(number)]
        self._partial = b""
        for name in ("answers", *map(str, range(number))):
            os.mkfifo(self._folder / name)
        self._answers = os.open(self._folder / "answers", os.O_RDWR | os.O_NONBLOCK)
        self._commands = [os.open(self._folder / str(rank), os.O_RDWR) for rank in range(number)]
        self._pipes = [self._answers, *self._commands]
        self._pids: list[int] = []
        self._job = self._start(launcher, nodeid, root)
        if reason := self._missing(1, _START_S, f"start within {_START_S:g} s"):
            raise self._failed(reason)
        self._pids = [int(pid) for (pid,) in self._heard]

    def run(self, nodeid: str, tmp_path: Path | None, timeout_s: float) -> str:
        """Run a test on every rank: "passed", or "skipped: " and why.

        Raises RanksFailedError, with the ranks ended, if it neither passed nor was skipped on all of them in time.
        """
        self._tests += 1
        self._logs = self._folder / f"test{self._tests}"
        self._logs.mkdir()
        self._heard = [[] for _ in range(self.number)]
        line = json.dumps([nodeid, os.fspath(self._logs), os.fspath(tmp_path or self._logs)]) + "\n"
        for descriptor in self._commands:
            os.write(descriptor, line.encode())
        reason = self._missing(1, _START_S, f"import of the test within {_START_S:g} s")
        reason = reason or self._missing(2, timeout_s, f"end within {timeout_s:g} s")
        verdicts = {heard[-1] for heard in self._heard if heard}
        if reason is None and (verdicts == {"passed"} or all(verdict.startswith("skipped: ") for verdict in verdicts)):
            return min(verdicts)
        raise self._failed(reason or "not every rank passed")

    def end(self) -> None:
        """Let the ranks end; raises RanksFailedError if they do not, or if mpiexec's exit code is not 0."""
        self._close()
        try:
            code = self._job.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise self._failed(f"no end of the ranks within {_END_S:g} s of their last test") from None
        if code:
            raise self._failed(f"after the last test mpiexec ended with exit code {code}")
        self._files.cleanup()

    def kill(self) -> None:
        """Stop mpiexec where it still runs; its ranks die with it."""
        self._close()
        if self._job.poll() is None:
            self._job.terminate()
            try:
                self._job.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self._job.pid, signal.SIGKILL)
                self._job.wait()
        self._files.cleanup()

    def _start(self, launcher: Launcher, nodeid: str, root: Path) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        shared_cores = max(self.number, 1 + (os.cpu_count() or 1))  # other tests run beside these
        environment |= settings(shared_cores, environment)
        environment |= {REPORT_VARIABLE: os.fspath(self._folder / "report"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        script = os.fspath(Path(__file__).with_name("mpi_rank.py"))
        with open(self._folder / "launcher", "wb") as output:
            return subprocess.Popen(
                command(launcher, self.number, [script, self._files.name, nodeid]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=root,
                start_new_session=True,
            )

    def _missing(self, answers: int, limit_s: float, what: str) -> str | None:
        """Wait until every rank has given as many `answers` to the last command; why that cannot be, or None."""
        deadline = time.monotonic() + limit_s
        failed = False
        while any(len(heard) < answers for heard in self._heard):
            ended = self._job.poll()
            self._read_answers()
            if not failed and any("failed" in heard for heard in self._heard):
                failed, deadline = True, time.monotonic() + _GRACE_S
            if ended is not None and any(len(heard) < answers for heard in self._heard):
                return f"mpiexec ended with exit code {ended}"
            if time.monotonic() > deadline:
                return "a rank failed while others waited" if failed else f"no {what}"
        return None

    def _read_answers(self) -> None:
        """Take down what ranks have said, or say within a moment."""
        if select.select([self._answers], [], [], 0.05)[0]:
            *lines, self._partial = (self._partial + os.read(self._answers, 1 << 16)).split(b"\n")
            for line in lines:
                rank, _, answer = line.decode().partition(" ")
                self._heard[int(rank)].append(answer)

    def _failed(self, verdict: str) -> RanksFailedError:
        """The report, with the ranks ended."""
        states = [next((answer for answer in heard if answer.startswith(_VERDICTS)), "did not end") for heard in self._heard]
        stuck = [
            (pid, self._logs / f"rank{rank}")
            for rank, (pid, state) in enumerate(zip(self._pids, states, strict=False))
            if state == "did not end"
        ]
        if self._job.poll() is None and stuck:
            for pid, _ in stuck:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)  # makes a rank write its stacks
            deadline = time.monotonic() + _STACK_S
            while self._job.poll() is None and time.monotonic() < deadline and not all(_shows_stack(log) for _, log in stuck):
                time.sleep(0.05)
        lines = [f"{verdict} ({self.number} ranks)"]
        for rank, state in enumerate(states):
            lines += [f"--- rank {rank}: {state}", _read(self._logs / f"rank{rank}")]
        lines += ["--- mpiexec", _read(self._folder / "launcher"), _read(self._folder / "report")]
        self.kill()
        return RanksFailedError("\n".join(lines))

    def _close(self) -> None:
        """Close the pipes, which ends ranks that wait for a test."""
        while self._pipes:
            os.close(self._pipes.pop())


def _shows_stack(log: Path) -> bool:
    """Whether a rank has written its threads' stacks to `log`: the main thread's comes last and ends in `mpi_rank`."""
    return log.exists() and re.search(r'/mpi_rank\.py", line \d+ in <module>', log.read_text(errors="replace")) is not None


def _read(file: Path) -> str:
    """The text of `file`, if there is one, without NUL bytes (mpiexec may print them) and stack lines of pytest itself."""
    if not file.exists():
        return ""
    lines = file.read_text(errors="replace").replace("\0", "")[-20_000:].strip().splitlines()
    return "\n".join(line for line in lines if not re.search(r'^  File ".*(/pluggy/|/_pytest/|/mpi_|<frozen runpy>)', line))
