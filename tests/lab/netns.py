"""Two hosts on one machine: network namespaces joined by a third one, the switch, with the faults a network has.

Names carry this process's pid, so that runs do not meet; what a dead run left is swept when the next lab is built. Needs root,
iproute2 and nftables: `why_not` says what is lacking. Nothing here knows what runs on the hosts.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

NAMESPACES = Path("/run/netns")
FILES = Path("/etc/netns")
OURS = re.compile(r"tandem-(\d+)-")
CLONE_NEWNET = 0x40000000
CABLE = "cable0"
TABLE = "tandem_faults"

_numbers = itertools.count(1)
Result = TypeVar("Result")


def why_not() -> str | None:
    """What this machine lacks for a lab, or None if one can be built."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    for command, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return f"needs {command} (Debian package {package}: make system)"
    return _refusal()


@functools.cache
def _refusal() -> str | None:
    """Why this machine does not let one be built, by building one: a container or a chroot may refuse any part of it."""
    try:
        with TwoHosts() as lab:
            lab.cut()
    except OSError as error:
        return f"needs network namespaces: {error}"
    return None


def sweep() -> list[str]:
    """Remove what labs of dead processes left, and say what it was."""
    found = sorted(NAMESPACES.glob("tandem-*")) + sorted(FILES.glob("tandem-*"))
    stale = {path.name for path in found if (owner := OURS.match(path.name)) and not Path("/proc", owner[1]).exists()}
    for name in sorted(stale):
        _remove(name)
    return sorted(stale)


@dataclass(frozen=True)
class LabHost:
    """One host: its name, its address on the switch, and the namespace that is its network."""

    name: str
    address: str
    namespace: str

    def command(self, *argv: str) -> list[str]:
        """The command line that runs `argv` on this host, with the lab's names in /etc/hosts."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def run(self, *argv: str, timeout_s: float = 30, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; raises CalledProcessError if it fails."""
        return subprocess.run(
            self.command(*argv), timeout=timeout_s, check=True, capture_output=True, text=True, **options
        )

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command and return; what still runs when the lab closes is killed."""
        return subprocess.Popen(self.command(*argv), **({"text": True} | options))

    def on_thread(self, work: Callable[[], Result], timeout_s: float = 90) -> Result:
        """The result of `work`, done by a thread of this process that stands on this host.

        A socket belongs to the host its thread stood on when it was made, and a zmq context to the one of its first
        socket. Names in /etc/hosts are the machine's own: use addresses.
        """
        outcome: list[Result | BaseException] = []

        def stand_and_work() -> None:
            try:
                self._stand_here()
                outcome.append(work())
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=stand_and_work, name=f"on {self.name}", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if not outcome:
            raise TimeoutError(f"{work} took more than {timeout_s} s on {self.name}")
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _stand_here(self) -> None:
        with (NAMESPACES / self.namespace).open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {self.namespace}")


class TwoHosts:
    """`mainpc` (10.77.0.1) and `pc2` (10.77.0.2) on one switch, as a context manager; each knows the other by name."""

    def __init__(self) -> None:
        sweep()
        prefix = f"tandem-{os.getpid()}-{next(_numbers)}"
        self.switch = f"{prefix}-switch"
        self.mainpc = LabHost("mainpc", "10.77.0.1", f"{prefix}-mainpc")
        self.pc2 = LabHost("pc2", "10.77.0.2", f"{prefix}-pc2")
        self.hosts = (self.mainpc, self.pc2)

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """From now on nothing arrives on either host from the other; nobody is told."""
        self.cut_one_way(self.mainpc, self.pc2)
        self.cut_one_way(self.pc2, self.mainpc)

    def cut_one_way(self, sender: LabHost, receiver: LabHost) -> None:
        """From now on what `sender` sends does not arrive at `receiver`; the way back stays open."""
        chain = f"type filter hook input priority 0; ip saddr {sender.address} drop;"
        rules = f"table inet {TABLE} {{ chain arriving {{ {chain} }}; }}"
        _ip("netns", "exec", receiver.namespace, "nft", rules)

    def cut_ports(self, host: LabHost, ports: Sequence[int], *, both_ways: bool = True) -> None:
        """From now on nothing from the other host arrives at these ports of `host`, and with `both_ways` nothing leaves them."""
        numbers = ", ".join(map(str, ports))
        way_in = f"type filter hook input priority 0; iifname {CABLE} tcp dport {{ {numbers} }} drop;"
        way_out = f"type filter hook output priority 0; oifname {CABLE} tcp sport {{ {numbers} }} drop;"
        chains = f"chain arriving {{ {way_in} }};" + (f" chain leaving {{ {way_out} }};" if both_ways else "")
        _ip("netns", "exec", host.namespace, "nft", f"table inet {TABLE} {{ {chains} }}")

    def heal(self) -> None:
        """Undo every cut and plug in every cable."""
        for host in self.hosts:
            _ip("netns", "exec", host.namespace, "nft", f"table inet {TABLE} {{ }}; delete table inet {TABLE}")
            self._cable(host, "up")

    def pull_cable(self, host: LabHost) -> None:
        """Take the host's cable out at the switch: the other host sees no change of carrier."""
        self._cable(host, "down")

    def close(self) -> None:
        """Kill what runs on the hosts and remove them; harmless if done before."""
        for name in (*(host.namespace for host in self.hosts), self.switch):
            _remove(name)

    def _build(self) -> None:
        names = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge0", "up", "type", "bridge")
        for host in self.hosts:
            (FILES / host.namespace).mkdir(parents=True)
            (FILES / host.namespace / "hosts").write_text(names)
            _ip("netns", "add", host.namespace)
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            ends = ("type", "veth", "peer", "name", CABLE, "netns", host.namespace)
            _ip("-n", self.switch, "link", "add", host.name, "up", "master", "bridge0", *ends)
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", CABLE)
            _ip("-n", host.namespace, "link", "set", CABLE, "up")

    def _cable(self, host: LabHost, state: str) -> None:
        _ip("-n", self.switch, "link", "set", host.name, state)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _remove(namespace: str) -> None:
    inside = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in inside.stdout.split():
        if int(pid) != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)
    shutil.rmtree(FILES / namespace, ignore_errors=True)
