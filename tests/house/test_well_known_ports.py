"""No test meets the fabric that may run on this machine, on the well-known ports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common.client.opening import directory_of_environment
from common.config.validate import RESERVED
from tests.house.test_nothing_is_skipped_in_silence import run
from tests.lab.doorstep import Doorstep
from tests.lab.fabric import until
from tests.lab.nowhere import nobody_but

CALL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(1)"


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_whatever_a_test_starts_is_told_of_nobody_on_a_well_known_port() -> None:
    known = directory_of_environment()
    places = [place for name in known.names() if (place := known.place(name)) is not None]
    assert len(places) == 7
    assert not {port_of(place.requests.address) for place in places} & RESERVED.keys()
    assert not {port_of(place.events.address) for place in places if place.events is not None} & RESERVED.keys()


def test_the_place_that_a_test_names_is_the_only_one() -> None:
    known = nobody_but("ErrorBus=5@127.0.0.1")
    assert {name for name in known.names() if known.place(name) != nobody_but().place(name)} == {"ErrorBus"}


def test_who_calls_at_a_held_port_is_named_with_its_test() -> None:
    doorstep = Doorstep([0])
    caller = subprocess.Popen([sys.executable, "-c", CALL, str(doorstep.held[0])])
    try:
        (told,) = until(lambda: doorstep.callers, 60, "the call")
        assert told.startswith(f"port {doorstep.held[0]} was called by {sys.executable} -c import socket")
        assert f", in {os.environ['PYTEST_CURRENT_TEST']}" in told
    finally:
        doorstep.close()
        assert caller.wait(60) == 0, "who is let go of ends"


def test_a_port_that_somebody_has_is_left_alone() -> None:
    first = Doorstep([0])
    second = Doorstep(first.held)
    assert second.held == []
    second.close()
    first.close()


def test_a_run_in_which_a_held_port_was_called_fails_and_says_by_whom(tmp_path: Path) -> None:
    told = "from tests.conftest import DOORSTEP\ndef test_it(request):\n    "
    quiet = run(tmp_path, f"{told}assert not request.config.stash[DOORSTEP].callers\n", CI="true")
    assert quiet.returncode == 0, quiet.stdout
    called = run(tmp_path, f"{told}request.config.stash[DOORSTEP].callers.append('port 7003, by me')\n", CI="true")
    assert called.returncode == 1
    assert "calls at well-known ports" in called.stdout
    assert "port 7003, by me" in called.stdout
