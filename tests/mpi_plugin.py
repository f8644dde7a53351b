"""`@pytest.mark.mpi(n, timeout=60, local=False, alone=False)`: run a test on n MPI ranks, with a hard time limit.

`n` is a number of ranks or a list of them.  The test takes `world` (and uses `world.run`) or `comm`; each rank runs it in a
pytest of its own, so `parametrize` and fixtures work, and `tmp_path` is the same folder on all ranks.  With `local=True` the
test runs a second time on `mpitrain.comm.local(n)`, in this process.

Starting MPI costs a second or more, so that one mpiexec runs all tests of as many ranks, which stand together in the order of
the tests.  A test that leaves something behind in its processes, or needs new ones, says `alone=True`.

Invariant: this process never loads MPI.  A rank's failure ends the others, and the tests after it get new ones; a deadlock is a
failure that shows every rank's stacks; no process is left behind.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import pytest
from mpi_ranks import Ranks, RanksFailedError

from mpitrain.comm import World, local, world
from mpitrain.comm.launch import Launcher, find_launcher

#: The ranks that wait for the next test.
_RANKS = pytest.StashKey[Ranks]()


@dataclass(frozen=True, slots=True)
class _World:
    """The value of `world` or `comm` until the test is called."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}{self.number}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mpi-rank-of", metavar="FOLDER", help="run as one of the ranks of a test (the plugin's own use)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mpi(n, timeout=60, local=False, alone=False): run the test on n MPI ranks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("mpi")
    if marker is None:
        return
    (name,) = {"world", "comm"} & set(metafunc.fixturenames)
    numbers = marker.args[0] if isinstance(marker.args[0], list) else [marker.args[0]]
    kinds = ("local", "mpi") if marker.kwargs.get("local", False) else ("mpi",)
    metafunc.parametrize(name, [_World(kind, number) for kind in kinds for number in numbers], ids=str)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (_number(item), _alone(item)))


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    marker = pyfuncitem.get_closest_marker("mpi")
    if marker is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    timeout = marker.kwargs.get("timeout", 60.0)
    if pyfuncitem.config.getoption("--mpi-rank-of"):
        _call(pyfuncitem.obj, arguments, world())
    elif number := _number(pyfuncitem):
        _run_over_mpi(pyfuncitem, number, timeout)
    else:
        wanted = arguments.get("world", arguments.get("comm"))
        _call(pyfuncitem.obj, arguments, local(wanted.number, limit_s=timeout))
    return True


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    ranks = item.config.stash.get(_RANKS, None)
    if ranks is not None and (nextitem is None or _number(nextitem) != ranks.number or _alone(item) or _alone(nextitem)):
        del item.config.stash[_RANKS]
        try:
            ranks.end()
        except RanksFailedError as failure:
            raise pytest.fail.Exception(str(failure), pytrace=False) from None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if ranks := session.config.stash.get(_RANKS, None):  # the session was cut short
        ranks.kill()


def _number(item: pytest.Item) -> int:
    """The number of MPI ranks that `item` runs on; 0 if it runs in this process."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return next((value.number for value in values if isinstance(value, _World) and value.kind == "mpi"), 0)


def _alone(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("mpi")
    return marker is not None and marker.kwargs.get("alone", False)


def _call(test: Any, arguments: dict[str, Any], world: World) -> None:
    if "world" in arguments:
        test(**arguments | {"world": world})
    else:
        world.run(lambda comm: test(**arguments | {"comm": comm}))


@functools.cache
def _launcher() -> Launcher:
    return find_launcher()


def _run_over_mpi(item: pytest.Function, number: int, timeout: float) -> None:
    try:
        launcher = _launcher()
    except ValueError as error:
        pytest.skip(str(error))
    stash, nodeid = item.config.stash, item.nodeid
    try:
        if _RANKS not in stash:
            stash[_RANKS] = Ranks(launcher, number, nodeid, item.config.rootpath)
        verdict = stash[_RANKS].run(nodeid, item.funcargs.get("tmp_path"), timeout)
    except RanksFailedError as failure:
        if _RANKS in stash:
            del stash[_RANKS]
        raise pytest.fail.Exception(str(failure), pytrace=False) from None
    if verdict != "passed":
        pytest.skip(verdict.removeprefix("skipped: "))
