"""One rank of `mpi_ranks.Ranks`: a pytest session that collects and runs the tests that it is told to, one after another.

Invariant: each test has a log of its own, and all of its fixtures are torn down before the next.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from mpitrain.comm import world


class Rank:
    """A pytest plugin: commands come through the pipe named after the rank, and answers go into the one that all share."""

    def __init__(self, rank: int, folder: Path) -> None:
        self._rank = rank
        self._commands = folder / str(rank)
        self._answers = os.open(folder / "answers", os.O_WRONLY)
        self._verdict = ""
        self._shared = folder
        self._log_to(folder)
        faulthandler.register(signal.SIGUSR1, file=2)
        self._say(str(os.getpid()))

    @pytest.fixture
    def tmp_path(self) -> Path:
        """The launching process's, on every rank."""
        return self._shared

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what is asked for, instead of what the session was started with."""
        with open(self._commands) as lines:
            for line in lines:
                nodeid, log, shared = json.loads(line)
                self._log_to(Path(log))
                self._verdict, self._shared = "passed", Path(shared)
                (item,) = session.perform_collect([nodeid])
                self._say("ready")
                item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
                self._say(self._verdict)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a part of a test that did not pass."""
        if report.failed:
            self._verdict = "failed"
            print(report.longreprtext, flush=True)
        elif report.skipped and self._verdict == "passed":
            assert isinstance(report.longrepr, tuple)
            self._verdict = f"skipped: {report.longrepr[2].removeprefix('Skipped: ')}"

    def _say(self, answer: str) -> None:
        os.write(self._answers, f"{self._rank} {' '.join(answer.split())[:1000]}\n".encode())

    def _log_to(self, folder: Path) -> None:
        file = os.open(folder / f"rank{self._rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)


def main(folder: str, nodeid: str) -> None:
    """Be a rank until the pipe of commands is closed; `nodeid` is the first test, from which pytest finds its settings."""
    (rank,) = world().run(lambda comm: comm.rank)
    options = ["-q", "--no-header", "-rN", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--mpi-rank-of", folder]
    options += ["--basetemp", f"{folder}/basetemp{rank}"]  # the usual one is cleaned up by every pytest that starts
    code = pytest.main([nodeid, *options], plugins=[Rank(rank, Path(folder))])
    sys.stdout.flush()
    if code != pytest.ExitCode.OK:
        sys.exit(f"pytest ended with {code!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
