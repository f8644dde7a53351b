"""Repeats each case of tests/parallel/test_reproducible.py on heaps of other shapes: the same bits each time, or exit code 1.

    python tests/stress/bits.py                 # 300 repetitions of each case, hours
    python tests/stress/bits.py --repetitions 2

The heap is what decides where arrays lie; before each repetition it is given holes of random sizes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

CASES = Path(__file__).parents[1] / "parallel" / "test_reproducible.py"


class Repeat:
    """A pytest plugin: each test so many times, each time on another heap; what failed is counted."""

    def __init__(self, repetitions: int) -> None:
        self.repetitions, self.runs, self.failures = repetitions, 0, 0

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a parameter of the repetition; MPI's ranks, processes of their own, are started anew by `main`."""
        if metafunc.definition.get_closest_marker("mpi"):
            return
        metafunc.fixturenames.append("heap")
        metafunc.parametrize("heap", range(self.repetitions), indirect=True)

    @pytest.fixture
    def heap(self, request: pytest.FixtureRequest):
        """Memory in pieces: of some hundred arrays every other one is freed, the others stay for the test's time."""
        random = np.random.default_rng(request.param)
        arrays = [np.empty(size, np.uint8) for size in random.integers(1, 1 << 16, 400)]
        del arrays[::2]
        yield
        del arrays

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count."""
        self.runs += report.when == "call"
        self.failures += report.failed


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=300, help="of each case")
    parser.add_argument("-k", default="", help="which cases, as pytest takes it")
    args = parser.parse_args()
    repeat = Repeat(args.repetitions)
    options = [str(CASES), "-q", "--no-header", "--tb=short", "-k", args.k]
    for _ in range(args.repetitions):
        pytest.main([*options, "-m", "mpi"], plugins=[repeat])
    pytest.main([*options, "-m", "not mpi"], plugins=[repeat])
    print(f"{repeat.runs} runs of the cases of {CASES.name}, {args.repetitions} of each: {repeat.failures} failed")
    return int(repeat.failures > 0 or repeat.runs == 0)


if __name__ == "__main__":
    sys.exit(main())
