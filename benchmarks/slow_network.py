"""The time of a step when the network is slow: two hosts behind a cable of 1 Gbit/s, with and without overlap, and compressed.

Invariant: one MPI job over TCP, one rank a (virtual) host, in which all sides take turns; the cable joins two network
namespaces, shows nothing outside of them, and is gone at the end (see `virtual_hosts`, which also says what it needs).

`hidden_fraction` is (t_off - t_on) / min(t_comm, t_backward) for the GPT: the time that overlap saves, over the time that it
could save, the median over rounds.  t_on and t_off are steps with and without overlap, t_comm and t_backward the parts of a
step without overlap in which rank 0 only communicates (REDUCE) and runs backward (B).  The MLP communicates twenty times longer
than its backward pass runs, so overlap cannot help it; compression does: `powersgd_speedup` is the MLP's uncompressed step over
that with PowerSGD of rank 4, both with overlap.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import report
from turns import WORKLOADS, Side, interval, ours, ratio, take_turns
from virtual_hosts import ADDRESSES, Hosts, launch_across, unavailable, virtual_hosts

from mpitrain.comm import Communicator
from mpitrain.comm.start import world
from mpitrain.parallel import DGC, EF21, Cast, Compressor, PowerSGD, RandomK, Sign, TopK

COMPRESSORS: dict[str, Compressor] = {
    "bfloat16": Cast(dtype="bfloat16"),
    "PowerSGD rank 4": PowerSGD(rank=4),
    "top 1 %": TopK(density=0.01),
    "random 1 %": RandomK(density=0.01),
    "DGC 0.1 %": DGC(density=0.001),
    "EF21 1 %": EF21(density=0.01),
    "sign": Sign(),
}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", default="1gbit", help="of the cable each way, as tc writes it")
    parser.add_argument("--delay", default="0.1ms", help="of the cable, where the kernel has netem")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of 2 steps")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--quick", action="store_true", help="tiny models and few steps, to see that it runs")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        world().run(lambda comm: as_rank(comm, args))
        return
    if reason := unavailable():
        print(f"skipped: {reason}")
        return
    with virtual_hosts(args.rate, args.delay) as hosts, tempfile.TemporaryDirectory(prefix="mpitrain-benchmark-") as folder:
        capacity = tcp_mib_s(hosts)
        print(f"cable: {hosts.cable}; a plain TCP stream carries {capacity:.0f} MiB/s", flush=True)
        if code := launch_across(hosts, [__file__, *sys.argv[1:], "--rank-of", folder], os.environ):
            sys.exit(code)
        found = json.loads(Path(folder, "found.json").read_text())
    report(found["headline"] | {"tcp_mib_s": capacity}, found["rows"], json_path=args.json)


def as_rank(comm: Communicator, args: argparse.Namespace) -> None:
    """One rank's part; rank 0 writes what was found."""
    rows: list[dict[str, Any]] = []
    headline: dict[str, float] = {}
    for name, make in WORKLOADS.items():
        workload = make(quick=args.quick)
        off = ours("no overlap", comm, comm.size, workload, overlap=False)
        on = ours("overlap", comm, comm.size, workload)
        compressed = {key: ours(key, comm, comm.size, workload, compression=value) for key, value in COMPRESSORS.items()}
        sides = [off, on, *compressed.values()]
        take_turns(comm, sides, warm=1, rounds=2 if args.quick else args.rounds, steps=2)
        if comm.rank > 0:  # rank 0 alone has the phases
            continue
        rows += [row_of(name, side, on) for side in sides]
        headline[f"hidden_fraction_{name}"] = hidden_fraction(off, on)
        headline[f"powersgd_speedup_{name}"] = statistics.median(ratio(on.seconds, compressed["PowerSGD rank 4"].seconds))
    if comm.rank == 0:
        chosen = {"hidden_fraction": headline["hidden_fraction_gpt"], "powersgd_speedup": headline["powersgd_speedup_mlp"]}
        (args.rank_of / "found.json").write_text(json.dumps({"headline": chosen | headline, "rows": rows}))


def hidden_fraction(off: Side, on: Side) -> float:
    """Of the communication that backward could hide, how much it did."""
    could = min(statistics.median(phase[kind] for phase in off.phases) for kind in ("REDUCE", "B"))
    return statistics.median((a - b) / could for a, b in zip(off.seconds, on.seconds, strict=True))


def row_of(model: str, side: Side, uncompressed: Side) -> dict[str, Any]:
    """One line of the table."""
    low, high = interval(side.seconds)
    return {
        "model": model,
        "side": side.name,
        "ms/step": 1e3 * side.median,
        "from": 1e3 * low,
        "to": 1e3 * high,
        "speedup": statistics.median(ratio(uncompressed.seconds, side.seconds)),
        **side.phase_medians(),
    }


_STREAM = """
import socket, sys, time
if sys.argv[1] == "take":
    server = socket.create_server(("", 5999))
    print(flush=True)
    client, _ = server.accept()
    while client.recv(1 << 20): pass
else:
    client, begin, sent = socket.create_connection((sys.argv[1], 5999)), time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < 1: sent += client.send(bytes(1 << 18))
    print(sent / spent / 2**20)
"""


def tcp_mib_s(hosts: Hosts) -> float:
    """What one TCP stream carries over the cable, MiB a second: no algorithm can do better."""
    start = [sys.executable, "-c", _STREAM]
    with subprocess.Popen(hosts.on(1, [*start, "take"]), stdout=subprocess.PIPE) as taker:
        assert taker.stdout is not None
        taker.stdout.readline()
        sent = subprocess.run(hosts.on(0, [*start, ADDRESSES[1]]), check=True, capture_output=True, text=True)
    return float(sent.stdout)


if __name__ == "__main__":
    main()
