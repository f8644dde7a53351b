"""`@pytest.mark.mpi(n, timeout=60, local=False)`: run a test on n MPI ranks, each a fresh process, with a hard time limit.

`n` is a number of ranks or a list of them.  The test takes `world` (and uses `world.run`) or `comm`; each rank runs it in a
pytest of its own, so `parametrize` and fixtures work, and `tmp_path` is the same folder on all ranks.  With `local=True` the
test runs a second time on `mpitrain.comm.local(n)`, in this process.

Invariant: this process never loads MPI.  A rank's failure ends the others; a deadlock is a failure that shows every rank's
stacks; no process is left behind.  Starting costs about a second, so loop over small cases inside of one test.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mpitrain.comm import Communicator, World, local
from mpitrain.comm.failure import REPORT_VARIABLE
from mpitrain.comm.launch import Launcher, command, find_launcher, settings

#: What a rank may take to start and to end, on top of the test's own limit.
_MARGIN_S = 8.0


@dataclass(frozen=True, slots=True)
class _Ranks:
    """The value of `world` or `comm` until the test is called."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}{self.number}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mpi-rank-of", metavar="FOLDER", help="run as one of the ranks of a test (the plugin's own use)")
    parser.addoption("--mpi-tmp-path", metavar="FOLDER", help="the tmp_path of all ranks (the plugin's own use)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mpi(n, timeout=60, local=False): run the test on n MPI ranks, n a number or a list")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("mpi")
    if marker is None:
        return
    (name,) = {"world", "comm"} & set(metafunc.fixturenames)
    numbers = marker.args[0] if isinstance(marker.args[0], list) else [marker.args[0]]
    kinds = ("local", "mpi") if marker.kwargs.get("local", False) else ("mpi",)
    metafunc.parametrize(name, [_Ranks(kind, number) for kind in kinds for number in numbers], ids=str)


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """pytest's `tmp_path`; the launching process's on every rank."""
    shared = request.config.getoption("--mpi-tmp-path")
    return Path(shared) if shared else tmp_path


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    marker = pyfuncitem.get_closest_marker("mpi")
    if marker is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    ranks = arguments.get("world", arguments.get("comm"))
    assert isinstance(ranks, _Ranks)
    timeout = marker.kwargs.get("timeout", 60.0)
    folder = pyfuncitem.config.getoption("--mpi-rank-of")
    if folder:
        _run_as_rank(pyfuncitem.obj, arguments, Path(folder))
    elif ranks.kind == "local":
        _call(pyfuncitem.obj, arguments, local(ranks.number, limit_s=timeout))
    else:
        _run_ranks(pyfuncitem, ranks.number, timeout)
    return True


def _call(test: Any, arguments: dict[str, Any], world: World) -> None:
    if "world" in arguments:
        test(**arguments | {"world": world})
    else:
        world.run(lambda comm: test(**arguments | {"comm": comm}))


# --- in the process that runs the suite ---


@functools.cache
def _launcher() -> Launcher:
    return find_launcher()


def _run_ranks(item: pytest.Function, number: int, timeout: float) -> None:
    try:
        launcher = _launcher()
    except ValueError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="mpi-test-") as folder:
        _start_and_judge(item, launcher, number, timeout, Path(folder))


def _start_and_judge(item: pytest.Function, launcher: Launcher, number: int, timeout: float, folder: Path) -> None:
    tmp_path = item.funcargs.get("tmp_path", folder)
    start = command(launcher, number, [__file__, item.nodeid, os.fspath(folder), os.fspath(tmp_path), str(timeout)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= settings(number, environment)
    environment |= {REPORT_VARIABLE: os.fspath(folder / "report"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with open(folder / "launcher", "wb") as output:
        job = subprocess.Popen(
            start,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=item.config.rootpath,
            start_new_session=True,
        )
        try:
            code = job.wait(timeout + _MARGIN_S)
            verdict = f"mpiexec ended with exit code {code}"
        except subprocess.TimeoutExpired:
            code = None
            verdict = f"no end within {timeout:g} s; the stacks of the ranks that were stuck are below"
        finally:
            _end(job)
    states = [_read(folder / f"rank{rank}.state", "did not end") for rank in range(number)]
    if code == 0 and set(states) == {"passed"}:
        return
    if code == 0 and all(state.startswith("skipped: ") for state in states):
        pytest.skip(states[0].removeprefix("skipped: "))
    report = [f"{verdict} ({number} ranks)"]
    for rank, state in enumerate(states):
        report += [f"--- rank {rank}: {state}", _read(folder / f"rank{rank}", "(never started)")]
    report += ["--- mpiexec", _read(folder / "launcher", ""), _read(folder / "report", "")]
    pytest.fail("\n".join(report), pytrace=False)


def _end(job: subprocess.Popen[bytes]) -> None:
    """Stop mpiexec where it still runs; its ranks die with it."""
    if job.poll() is None:
        job.terminate()
        try:
            job.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def _read(file: Path, otherwise: str) -> str:
    """The text of `file` without the NUL bytes that mpiexec may print and the stack lines of pytest itself."""
    if not file.exists():
        return otherwise
    lines = file.read_text(errors="replace").replace("\0", "")[-20_000:].strip().splitlines()
    return "\n".join(
        line for line in lines if not re.search(r'^  File ".*(/pluggy/|/_pytest/|mpi_plugin|<frozen runpy>)', line)
    )


# --- in each rank ---


def _run_as_rank(test: Any, arguments: dict[str, Any], folder: Path) -> None:
    from mpitrain.comm import world

    ranks = world()
    (rank,) = ranks.run(lambda comm: comm.rank)
    state = folder / f"rank{rank}.state"
    try:
        _call(test, arguments, ranks)
    except pytest.skip.Exception as skipped:
        state.write_text(f"skipped: {skipped.msg}")
        raise
    except BaseException:
        state.write_text("failed")
        raise
    state.write_text("passed")


def _main(nodeid: str, folder: str, tmp_path: str, timeout: str) -> None:
    from mpitrain.comm import world

    def log_to_file(comm: Communicator) -> int:
        file = os.open(Path(folder, f"rank{comm.rank}"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        return comm.rank

    (rank,) = world().run(log_to_file)
    options = ["-q", "--no-header", "-rN", "-s", "-p", "no:cacheprovider", "-o", f"faulthandler_timeout={timeout}"]
    options += ["--basetemp", f"{folder}/basetemp{rank}"]  # the usual one is cleaned up by every pytest that starts
    code = pytest.main([nodeid, *options, "--mpi-rank-of", folder, "--mpi-tmp-path", tmp_path])
    sys.stdout.flush()
    if code != pytest.ExitCode.OK:
        time.sleep(0.3)  # let ranks that fail at the same time say so too
        sys.exit(f"pytest ended with {code!r}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
