"""Two hosts in one: network namespaces of their own, joined by a cable of a chosen speed, and an MPI job that runs on both.

Invariant: nothing is visible outside, and nothing is left.  Both hosts live in one namespace of process numbers, whose first
process the kernel ends when this process ends, in whatever way; with it end all others in there, and with them the hosts and
the cable.  Needs Linux, root, util-linux and iproute2 (Debian: `apt-get install iproute2`); `unavailable` says what is missing.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mpitrain.comm.launch import Launcher, find_launcher, settings

ADDRESSES = ("10.77.0.1", "10.77.0.2")
_TOOLS = ("ip", "tc", "unshare", "nsenter", "setpriv")

#: What a host is: network, name and shared memory of its own.  It says the number of its process, and waits for its end.
_HOST = """
hostname virtual{number} && ip link set lo up && mount -t tmpfs shm /dev/shm && echo $$ && exec sleep infinity
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hosts:
    """The two hosts: how to enter where they live, then each by its number there; and how the cable between them is limited."""

    enter: tuple[str, ...]
    numbers: tuple[int, int]
    cable: str

    def door(self, host: int) -> list[str]:
        """What runs the command that follows on host number `host`, from where both live."""
        return ["nsenter", f"--target={self.numbers[host]}", "--net", "--uts", "--mount", "--ipc", f"--wdns={Path.cwd()}"]

    def on(self, host: int, command: Sequence[str]) -> list[str]:
        """What runs `command` on host number `host`."""
        return [*self.enter, *self.door(host), *command]

    def sent_bytes(self) -> list[int]:
        """Bytes that each host has put on the cable, all headers included."""
        answers = (_run(self.on(host, ["ip", "-s", "-j", "link", "show", "cable"])) for host in range(2))
        return [json.loads(answer)[0]["stats64"]["tx"]["bytes"] for answer in answers]


def unavailable() -> str | None:
    """Why there can be no virtual hosts here; `None` if there can."""
    if sys.platform != "linux":
        return f"network namespaces need Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return f"network namespaces need root, this is user {os.geteuid()}"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"there is no {missing[0]}: install util-linux and iproute2"
    try:
        with virtual_hosts("1gbit"):
            return None
    except subprocess.CalledProcessError as error:
        return f"`{shlex.join(error.cmd[-12:])}` failed: {error.stderr.strip()}"


@contextmanager
def virtual_hosts(rate: str, delay: str | None = None) -> Iterator[Hosts]:
    """Two hosts, their cable limited to `rate` each way (as `tc` writes it), with a `delay` where the kernel has netem."""
    with ExitStack() as stack:
        tied = "setpriv --pdeathsig KILL unshare --pid --mount --fork --kill-child --mount-proc"
        first, _ = stack.enter_context(_waiting([*tied.split(), "sh", "-c", "echo $$ && exec sleep infinity"]))
        files = Path("/proc", str(first.pid), "ns")
        enter = ("nsenter", f"--mount={files / 'mnt'}", f"--pid={files / 'pid_for_children'}")
        numbers = []
        for number in range(2):
            apart = [*enter, "unshare", "--net", "--uts", "--mount", "--ipc", "sh", "-c", _HOST.format(number=number)]
            numbers.append(stack.enter_context(_waiting(apart))[1])
        stack.callback(first.kill)  # before the hosts are waited for
        hosts = Hosts(enter=enter, numbers=(numbers[0], numbers[1]), cable="")
        _run(hosts.on(0, f"ip link add cable type veth peer name cable netns {numbers[1]}".split()))
        for host, address in enumerate(ADDRESSES):
            _run(hosts.on(host, f"ip addr add {address}/24 dev cable".split()))
            _run(hosts.on(host, ["ip", "link", "set", "cable", "up"]))
        yield replace(hosts, cable=_limit(hosts, rate, delay))


def launch_across(hosts: Hosts, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a Python script with its arguments on two ranks, one a host, and return the exit code of `mpiexec`."""
    launcher = find_launcher()
    with tempfile.TemporaryDirectory(prefix="mpitrain-hosts-") as folder:
        agent = Path(folder, "agent")
        # Called as ssh is: options, the host's address, a command.
        doors = (shlex.join(hosts.door(host)) for host in range(2))
        cases = "\n".join(f'{address}) exec {door} /bin/sh -c "$*" ;;' for address, door in zip(ADDRESSES, doors, strict=True))
        agent.write_text(
            f'#!/bin/sh\nwhile [ "${{1#-}}" != "$1" ]; do shift; done\nhost=$1; shift\ncase $host in\n{cases}\nesac\n'
        )
        agent.chmod(0o700)
        command = [*_mpiexec(launcher, agent), sys.executable, "-m", "mpitrain.comm", *arguments]
        wanted = settings(1, environment) | dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        # Process numbers begin anew in there, so what launchers name after theirs could meet another job's in /tmp.
        wanted["TMPDIR"] = folder
        return subprocess.run(
            hosts.on(0, command), env={**environment, **wanted}, stdin=subprocess.DEVNULL, check=False
        ).returncode


def _mpiexec(launcher: Launcher, agent: Path) -> list[str]:
    mpiexec = os.fspath(launcher.mpiexec)
    if launcher.vendor == "Open MPI":
        where = ",".join(f"{address}:1" for address in ADDRESSES)
        return [mpiexec, "--prtemca", "plm_ssh_agent", os.fspath(agent), "--host", where, "--map-by", "ppr:1:node", "-n", "2"]
    where = ",".join(ADDRESSES)
    return [
        mpiexec,
        "-launcher",
        "ssh",
        "-launcher-exec",
        os.fspath(agent),
        "-iface",
        "cable",
        "-hosts",
        where,
        "-ppn",
        "1",
        "-n",
        "2",
    ]


@contextmanager
def _waiting(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has said its number, and that number; killed and waited for at the end."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.readline()
        if not said:
            raise subprocess.CalledProcessError(process.wait(), command, stderr=process.stderr.read())
        yield process, int(said)
    finally:
        process.kill()
        process.communicate()


def _limit(hosts: Hosts, rate: str, delay: str | None) -> str:
    """Limit both ends of the cable; how."""
    way = f"tbf rate {rate} burst 128kb latency 50ms"
    if delay and _succeeds(hosts.on(0, f"tc qdisc replace dev cable root netem delay {delay}".split())):
        way = f"netem rate {rate} delay {delay} limit 20000"
    for host in range(2):
        _run(hosts.on(host, f"tc qdisc replace dev cable root {way}".split()))
    return way


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
