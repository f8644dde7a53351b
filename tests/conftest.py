"""What every test file can use: the `mpi` marker."""

import pytest

pytest_plugins = ["mpi_plugin"]


def pytest_addoption(parser):
    parser.addoption("--large", action="store_true", help="run the tests of sizes that need 10 GiB of memory and minutes, too")


def pytest_configure(config):
    config.addinivalue_line("markers", "large: needs 10 GiB of memory and minutes; runs with --large")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--large") or config.getoption("--mpi-rank-of"):
        return
    for item in items:
        if item.get_closest_marker("large"):
            item.add_marker(pytest.mark.skip(reason="needs 10 GiB of memory and minutes: pytest --large"))
