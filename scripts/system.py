"""The Debian packages the tests use, each with its reason: says which are missing, and installs them for root.

Plain Python without any package, since it runs before anything is installed. It starts no service and leaves none that
would start by itself: the tests start their own servers on ports of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Package:
    """A Debian package, what shows that it is there (a command or a file), why it is wanted, and the service it would start."""

    name: str
    shown_by: str
    reason: str
    service: str = ""

    def present(self) -> bool:
        """Whether this machine has it, from a package or otherwise."""
        if self.shown_by.startswith("/"):
            return Path(self.shown_by).exists()
        return shutil.which(self.shown_by, path=os.environ.get("PATH", "") + SBIN) is not None


PACKAGES = (
    Package("redis-server", "redis-server", "the Redis stores run the same contract suite as SQLite's", "redis-server"),
    Package("prometheus", "promtool", "promtool judges what /metrics answers", "prometheus prometheus-node-exporter"),
    Package("nftables", "nft", "cuts the links between two hosts in the test lab"),
    Package("iproute2", "ip", "builds two hosts out of network namespaces"),
    Package(
        "gcc", "gcc", "builds the stand-in for libnvidia-ml that the card tests drive, and the clock that tests step"
    ),
    Package("libc6-dev", "/usr/include/stdio.h", "the headers the same stand-in is built with"),
    Package("perl", "json_pp", "runs the agent that knows neither our code nor ZeroMQ's; its base lacks JSON"),
    Package("curl", "curl", "reads the health ports as an operator would"),
    Package("util-linux", "setpriv", "starts children with limits; essential in Debian, so it is there already"),
)


def missing() -> list[Package]:
    """The packages this machine lacks."""
    return [package for package in PACKAGES if not package.present()]


@contextmanager
def services_kept_still() -> Iterator[None]:
    """While open, no package starts a service; a policy of the machine's own is left alone."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install(wanted: list[Package]) -> None:
    """Install packages with apt-get, their services neither started now nor at boot; raises CalledProcessError if that fails."""
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*apt, "update"], check=True, env=environment)
    names = [package.name for package in wanted]
    with services_kept_still():
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *names],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
    services = " ".join(package.service for package in wanted).split()
    if services and shutil.which("systemctl"):
        subprocess.run(["systemctl", "disable", "--quiet", *services], check=False, stderr=subprocess.DEVNULL)


def main(arguments: list[str]) -> int:
    """`list` names what is missing; `install` installs it. Exit status 1 if it wants root."""
    lacking = missing()
    for package in PACKAGES:
        state = "missing" if package in lacking else "present"
        if arguments == ["install"] or package in lacking:
            print(f"{state}  {package.name:<14} {package.reason}", flush=True)
    if arguments != ["install"] or not lacking:
        return 0
    if os.geteuid() != 0:
        print(f"run as root: apt-get install --no-install-recommends {' '.join(package.name for package in lacking)}")
        return 1
    install(lacking)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
