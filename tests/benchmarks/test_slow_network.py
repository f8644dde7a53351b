"""The virtual hosts are as slow as asked, ranks run on both, and nothing of them is left, however the benchmark ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(os.fspath(BENCHMARKS))

from slow_network import tcp_mib_s  # noqa: E402  (a benchmark is a script, not a package)
from virtual_hosts import launch_across, unavailable, virtual_hosts  # noqa: E402

REASON = unavailable()
pytestmark = [pytest.mark.benchmarks, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

HOLD = """
import signal, time
from virtual_hosts import virtual_hosts
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs in the background
with virtual_hosts('1gbit'): print(flush=True); time.sleep(600)
"""

RANK = """
import socket, sys
from mpitrain.comm.start import world
import numpy as np
def tell(comm):
    name = np.frombuffer(socket.gethostname().encode(), np.uint8).copy()
    names = comm.allgather(name)
    if comm.rank == 0:
        open(sys.argv[1], "w").write(" ".join(bytes(row).decode() for row in names))
world().run(tell)
"""


def descendants(pid):
    """The numbers of the processes that `pid` started, and they, and so on."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def links():
    return re.findall(r"^\d+: ([^:@]+)", subprocess.run(["ip", "link"], capture_output=True, text=True).stdout, re.MULTILINE)


def test_the_cable_is_as_slow_as_asked():
    with virtual_hosts("200mbit") as hosts:
        before = hosts.sent_bytes()
        rate = tcp_mib_s(hosts)
        sent = [b - a for a, b in zip(before, hosts.sent_bytes(), strict=True)]
    # 200 Mbit/s are 23.8 MiB/s with all headers; one second starts with a full bucket and full socket buffers (4 MiB)
    assert rate < 23.8 + 5
    assert sent[0] > 2**20  # it went over the cable, from the first host
    assert sent[1] < sent[0] / 5  # which carries acknowledgements back


def test_a_rank_runs_on_each_host(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    with virtual_hosts("1gbit") as hosts:
        assert launch_across(hosts, [script, tmp_path / "names"], os.environ) == 0
    assert (tmp_path / "names").read_text() == "virtual0 virtual1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_nothing_is_left_of_them(number):
    before = links()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    holder.stdout.readline()
    started = descendants(holder.pid)
    assert len(started) >= 4  # what holds the numbers, and two hosts
    assert links() == before
    holder.send_signal(number)
    holder.wait(60)
    holder.stdout.close()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert links() == before


def test_the_benchmark_compares_all_sides(tmp_path):
    options = ["--quick", "--json", tmp_path / "found.json"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "slow_network.py", *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"hidden_fraction", "powersgd_speedup", "tcp_mib_s"} <= found["headline"].keys()
    sides = [row["side"] for row in found["rows"] if row["model"] == "mlp"]
    assert sides[:2] == ["no overlap", "overlap"]
    assert "PowerSGD rank 4" in sides
    assert all(row["ms/step"] > 0 for row in found["rows"])
