"""What every test file can use: the `mpi` marker, one BLAS thread per process, and, for the whole suite, as many processes as
there are cores.
"""

import os
import re

import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before NumPy is loaded: the processes of the suite share the cores

pytest_plugins = ["mpi_plugin"]

#: What runs only where it is asked for, by an option of the marker's name.
ON_REQUEST = {
    "large": "needs 10 GiB of memory and minutes",
    "benchmarks": "runs a program of benchmarks/ at a small size",
}


def pytest_addoption(parser):
    for name, reason in ON_REQUEST.items():
        parser.addoption(f"--{name}", action="store_true", help=f"also run each test that {reason}")


def pytest_configure(config):
    for name, reason in ON_REQUEST.items():
        config.addinivalue_line("markers", f"{name}: {reason}; runs with --{name}")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Share the whole suite out to the cores; a part of it, and what is debugged, runs in this process."""
    option = config.option
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    whole = config.args_source is config.ArgsSource.TESTPATHS and not (option.keyword or option.markexpr)
    if option.numprocesses is None and whole and not (option.usepdb or option.collectonly):
        option.numprocesses = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if option.numprocesses and option.dist == "no":
        option.dist = "loadscope"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one mpiexec, and those of a file whose fixture takes long, in one process; any other where there is time."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            over_mpi = re.search(r"[\[-](mpi\d+)[-\]]", nodeid)
            file = nodeid.partition("::")[0]
            return over_mpi[1] if over_mpi else file if file.endswith("test_mpi_plugin.py") else nodeid

    return Scheduling(config, log) if config.option.dist == "loadscope" else None


def pytest_collection_modifyitems(config, items):
    if config.getoption("--mpi-rank-of"):
        return
    for item in items:
        for name, reason in ON_REQUEST.items():
            if item.get_closest_marker(name) and not config.getoption(f"--{name}"):
                item.add_marker(pytest.mark.skip(reason=f"{reason}: pytest --{name}"))
