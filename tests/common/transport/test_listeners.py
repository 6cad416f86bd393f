"""Who serves a port of loopback: real sockets of this user, and tables as the kernel writes them for others."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from common.transport import listeners
from common.transport.listeners import users_at

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
OWN = os.geteuid()
OTHER = OWN + 1_000


def row(local: str, remote: str, state: str, user: int) -> str:
    return (
        f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {user:5}        0 1 1 0 100 0 0 10 0\n"
    )


def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *rows: str, six: tuple[str, ...] = ()) -> None:
    (tmp_path / "tcp").write_text(HEAD + "".join(rows))
    (tmp_path / "tcp6").write_text(HEAD + "".join(six))
    monkeypatch.setattr(listeners, "_TABLES", (tmp_path / "tcp", tmp_path / "tcp6", tmp_path / "absent"))
    monkeypatch.setattr(listeners, "_asked", refused)


def refused(*_: object) -> Iterator[listeners._Row]:
    raise PermissionError(errno.EPERM, "no netlink here")


@pytest.mark.parametrize("way", ["netlink", "the tables"])
def test_a_port_that_this_user_listens_at_is_its_own_and_one_that_nobody_does_is_nobodys(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "the tables":
        monkeypatch.setattr(listeners, "_asked", refused)
    with socket.socket() as listener, socket.socket() as idle:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        idle.bind(("127.0.0.1", 0))
        assert users_at(f"tcp://127.0.0.1:{listener.getsockname()[1]}") == {OWN}
        assert users_at(f"tcp://localhost:{listener.getsockname()[1]}") == {OWN}
        assert users_at(f"tcp://127.0.0.1:{idle.getsockname()[1]}") == frozenset()


def test_who_listens_everywhere_listens_on_loopback_too_and_another_address_or_port_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nobody, mapped = "00000000:0000", "0000000000000000FFFF00000100007F"
    table(monkeypatch, tmp_path, row("00000000:1BB2", nobody, "0A", OTHER), row("0200007F:1BB2", nobody, "0A", OWN))
    assert users_at("tcp://127.0.0.1:7090") == {OTHER}
    assert users_at("tcp://127.0.0.2:7090") == {OTHER, OWN}
    assert users_at("tcp://127.0.0.1:7091") == frozenset()
    assert users_at("tcp://10.0.0.1:7090") == frozenset()
    for local in (mapped, "0" * 32):
        table(monkeypatch, tmp_path, six=(row(f"{local}:1BB2", f"{'0' * 32}:0000", "0A", OTHER),))
        assert users_at("tcp://127.0.0.1:7090") == {OTHER}


def test_who_took_our_connection_before_the_port_changed_hands_still_serves_us_and_not_those_of_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port, client, nobody = "0100007F:1BB2", "0100007F:C000", "00000000:0000"
    listens, held = row(port, nobody, "0A", OWN), row(port, client, "01", OTHER)
    table(monkeypatch, tmp_path, listens, held, row(client, port, "01", OWN))
    assert users_at("tcp://127.0.0.1:7090") == {OWN, OTHER}
    table(monkeypatch, tmp_path, listens, held, row(client, port, "01", OTHER))
    assert users_at("tcp://127.0.0.1:7090") == {OWN}


def test_both_ways_tell_the_same_of_a_port_with_connections() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0]:
            by_netlink = sorted(listeners._asked(socket.AF_INET, port))
            assert by_netlink == sorted(row for row in listeners._read(port))
            assert len(by_netlink) == 3


def test_what_the_kernel_refuses_to_say_by_netlink_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError):
        list(listeners._asked(255, 1))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a port as another user")
def test_a_port_that_another_user_took_is_that_users() -> None:
    program = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    taken = subprocess.Popen([sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, text=True)
    try:
        assert taken.stdout is not None
        assert users_at(f"tcp://127.0.0.1:{taken.stdout.readline().strip()}") == {65_534}
    finally:
        taken.kill()
        taken.communicate()
