from __future__ import annotations

import subprocess
import sys

import pytest

import tandem


def test_every_public_name_is_there() -> None:
    for name in tandem.__all__:
        assert getattr(tandem, name).__name__ == name


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'tandem' has no attribute 'nothing'"):
        _ = tandem.nothing


def test_a_program_pays_for_what_it_takes() -> None:
    code = "import sys, tandem; tandem.TandemError; print('zmq' in sys.modules); tandem.open_client; print('zmq' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.split() == ["False", "True"]
