from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def wrappers() -> None:
    missing = [program for program in ("setpriv", "prlimit", "taskset", "nice") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian package util-linux)")
